"""Parse one row of a preference file into a pair or a rated response."""

from __future__ import annotations

from typing import Any

from ...configs.schema import DataConfig
from .conversation import (
    TEXT_LIMIT,
    RowError,
    clean_text,
    parse_prompt,
    parse_response,
    split_conversations,
)
from .files import Row
from .pair import SAME_TEXT, Message, PreferencePair, short_list, short_repr
from .ratings import RatedResponse, finite_number, parse_ratings
from .splitting import split_of

SPLITS = ("train", "test")
# Characters of an attribute or user: a name, not a text.
LABEL_LIMIT = 1000


def parse_pair(
    number: int, path: str, row: Row, split: str | None, config: DataConfig
) -> PreferencePair:
    """Parse an explicit, implicit or transcript row.

    Args:
        number: Row number, from 1.
        path: File of the row.
        row: The row.
        split: Split of the file; None to take it from the row, else from a hash of the prompt.
        config: Names of columns, attributes to use and the share of test prompts.

    Raises:
        RowError: A column is missing or its value is wrong.
    """
    columns = config.columns
    for name in (columns.chosen, columns.rejected):
        if name not in row:
            raise RowError(name, f"missing column; the row has {short_list(row)}")
    if row.get(columns.prompt) is None:
        prompt, chosen, rejected = split_conversations(
            row[columns.chosen], row[columns.rejected], (columns.chosen, columns.rejected)
        )
    else:
        prompt = parse_prompt(row[columns.prompt], columns.prompt)
        chosen = parse_response(row[columns.chosen], columns.chosen, prompt)
        rejected = parse_response(row[columns.rejected], columns.rejected, prompt)
        if chosen == rejected:
            raise RowError(columns.rejected, SAME_TEXT)
    attribute = _label(row, columns.attribute)
    if config.attributes and attribute not in config.attributes:
        raise RowError(
            columns.attribute, f"{short_repr(attribute)} is not listed in data.attributes"
        )
    margin = row.get(columns.margin)
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        split=split or _split(row, prompt, config),
        source=config.source,
        attribute=attribute,
        context=_label(row, columns.context, TEXT_LIMIT),
        user=_label(row, columns.user),
        margin=None if margin is None else finite_number(margin, columns.margin),
        row=number,
        file=path,
    )


def parse_rated(
    number: int,
    path: str,
    row: Row,
    split: str | None,
    attributes: tuple[str, ...],
    config: DataConfig,
) -> RatedResponse:
    """Parse a row with ratings of ``attributes``; see ``parse_pair`` for the other arguments.

    Raises ``RowError`` if a column is missing or its value is wrong.
    """
    columns = config.columns
    if row.get(columns.prompt) is None:
        raise RowError(columns.prompt, f"missing column; the row has {short_list(row)}")
    prompt = parse_prompt(row[columns.prompt], columns.prompt)
    return RatedResponse(
        row=number,
        file=path,
        prompt=prompt,
        response=parse_response(row[columns.response], columns.response, prompt),
        split=split or _split(row, prompt, config),
        user=_label(row, columns.user),
        context=_label(row, columns.context, TEXT_LIMIT),
        ratings=parse_ratings(row, attributes),
    )


def _label(row: Row, name: str, limit: int = LABEL_LIMIT) -> str | None:
    """An optional text of a row, None if empty; integers, such as ids of users, become text."""
    value: Any = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if len(value) > limit:
            raise RowError(name, f"a label of {len(value):,} characters, at most {limit:,}")
        return clean_text(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(name, f"expected text, found {type(value).__name__}")


def _split(row: Row, prompt: tuple[Message, ...], config: DataConfig) -> str:
    """The split that a row states, else the one of its prompt."""
    value = row.get(config.columns.split)
    if value is None:
        return split_of(prompt, config.test_fraction)
    if value not in SPLITS:
        raise RowError(config.columns.split, f"expected train or test, found {short_repr(value)}")
    return value
