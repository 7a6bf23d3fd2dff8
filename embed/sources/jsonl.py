"""Local preference files, JSON lines or Parquet, in any of the four shapes that people have.

explicit       {"prompt", "chosen", "rejected"} with text or messages
implicit       {"chosen", "rejected"}: two whole conversations that share all but the last message
transcript     either of these with Human:/Assistant: text instead of messages
ratings        {"prompt", "response", <integer columns>}: two responses make a pair per attribute
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...configs.schema import ColumnsConfig, DataConfig
from .collection import Collection
from .conversation import RowError, clean_text, parse_prompt, parse_response, split_conversations
from .files import Row, read_rows
from .pair import SAME_TEXT, DataError, PreferencePair, Refusal, hash_fraction
from .ratings import (
    RatedResponse,
    finite_number,
    pairs_from_ratings,
    parse_ratings,
    rating_columns,
)

SPLITS = ("train", "test")


def load(config: DataConfig) -> Collection:
    """All pairs of the training and test file, with what was refused and why."""
    if config.train is None:
        raise DataError(
            "data.train: no training file; set data.train in the config or give --data.train FILE"
        )
    collection = Collection()
    files = [(config.train, "train" if config.test else None)]
    if config.test:
        files.append((config.test, "test"))
    for path, split in files:
        rows: list[tuple[int, Row]] = []
        for number, row in read_rows(path):
            collection.rows += 1
            if isinstance(row, Refusal):
                collection.refusals.append(row)
            else:
                rows.append((number, row))
        _collect(rows, path, split, config, collection)
    return collection


def _collect(
    rows: list[tuple[int, Row]],
    path: str,
    split: str | None,
    config: DataConfig,
    collection: Collection,
) -> None:
    columns = config.columns
    rated_rows = [row for _, row in rows if columns.response in row and columns.chosen not in row]
    known = set(asdict(columns).values())
    attributes = tuple(config.attributes or rating_columns(rated_rows, known))
    if rated_rows and not attributes:
        raise DataError(
            f"{path}: rows have {columns.response!r} but no integer column to compare by; "
            "name the rating columns in data.attributes"
        )
    rated: list[RatedResponse] = []
    for number, row in rows:
        try:
            if columns.chosen in row or columns.response not in row:
                collection.pairs.append(_pair(number, row, split, config))
            else:
                rated.append(_rated(number, path, row, split, attributes, config))
        except RowError as error:
            collection.refusals.append(Refusal(number, error.field, error.reason, path))
    pairs_from_ratings(rated, attributes, config, collection)


def _pair(number: int, row: Row, split: str | None, config: DataConfig) -> PreferencePair:
    columns = config.columns
    for name in (columns.chosen, columns.rejected):
        if name not in row:
            raise RowError(name, f"missing column; the row has {', '.join(map(str, row))}")
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
        raise RowError(columns.attribute, f"{attribute!r} is not listed in data.attributes")
    margin = row.get(columns.margin)
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        split=split or _split(row, prompt, config),
        source=config.source,
        attribute=attribute,
        context=_label(row, columns.context),
        user=_label(row, columns.user),
        margin=None if margin is None else finite_number(margin, columns.margin),
        row=number,
    )


def _rated(
    number: int,
    path: str,
    row: Row,
    split: str | None,
    attributes: tuple[str, ...],
    config: DataConfig,
) -> RatedResponse:
    columns: ColumnsConfig = config.columns
    if row.get(columns.prompt) is None:
        raise RowError(columns.prompt, f"missing column; the row has {', '.join(map(str, row))}")
    prompt = parse_prompt(row[columns.prompt], columns.prompt)
    return RatedResponse(
        row=number,
        file=path,
        prompt=prompt,
        response=parse_response(row[columns.response], columns.response, prompt),
        split=split or _split(row, prompt, config),
        user=_label(row, columns.user),
        context=_label(row, columns.context),
        ratings=parse_ratings(row, attributes),
    )


def _label(row: Row, name: str) -> str | None:
    value: Any = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return clean_text(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(name, f"expected text, found {type(value).__name__}")


def _split(row: Row, prompt: tuple[Any, ...], config: DataConfig) -> str:
    value = row.get(config.columns.split)
    if value is None:
        held_out = hash_fraction("split", [list(turn) for turn in prompt]) < config.test_fraction
        return "test" if held_out else "train"
    if value not in SPLITS:
        raise RowError(config.columns.split, f"expected train or test, found {value!r}")
    return value
