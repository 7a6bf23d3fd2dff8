"""One row of a preference file as a pair or as a rated response."""

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
from .pair import SAME_TEXT, Message, PreferencePair, listed, shown
from .ratings import RatedResponse, finite_number, parse_ratings
from .splitting import split_of

SPLITS = ("train", "test")
# Attributes and users are names of groups.
LABEL_LIMIT = 1000


def parse_pair(
    number: int, path: str, row: Row, split: str | None, config: DataConfig
) -> PreferencePair:
    """The pair of an explicit, implicit or transcript row; ``RowError`` if it has none.

    ``split`` is the file's own, None where the row or its prompt decides.
    """
    columns = config.columns
    for name in (columns.chosen, columns.rejected):
        if name not in row:
            raise RowError(name, f"missing column; the row has {listed(row)}")
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
        raise RowError(columns.attribute, f"{shown(attribute)} is not listed in data.attributes")
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
    """The rated response of a ratings row; ``RowError`` if a part of it is missing or wrong."""
    columns = config.columns
    if row.get(columns.prompt) is None:
        raise RowError(columns.prompt, f"missing column; the row has {listed(row)}")
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
    value = row.get(config.columns.split)
    if value is None:
        return split_of(prompt, config.test_fraction)
    if value not in SPLITS:
        raise RowError(config.columns.split, f"expected train or test, found {shown(value)}")
    return value
