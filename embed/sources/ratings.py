"""Rated responses to pairs: one pair per attribute and per two responses of a prompt (HelpSteer2).

Ties are no preference: they are dropped and counted per attribute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...configs.schema import DataConfig
from .collection import Collection
from .conversation import RowError
from .pair import SAME_TEXT, Message, PreferencePair, Refusal

# With this many rows a column of distinct integers is taken for a row number, not for a rating.
ROW_NUMBERS = 10


@dataclass(frozen=True)
class RatedResponse:
    """One row of a ratings file."""

    row: int
    file: str
    prompt: tuple[Message, ...]
    response: str
    split: str
    user: str | None
    context: str | None
    ratings: dict[str, Any]


def rating_columns(rows: Sequence[dict[str, Any]], known: set[str]) -> tuple[str, ...]:
    """Columns that hold an integer in every row that has them.

    ``known`` columns are no ratings, and neither is one with another value in every row: that is a
    row number.
    """
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in known and value is not None:
                values.setdefault(name, []).append(value)
    return tuple(
        name
        for name, column in values.items()
        if all(isinstance(value, int) and not isinstance(value, bool) for value in column)
        and (len(column) < ROW_NUMBERS or len(set(column)) < len(column))
    )


def finite_number(value: Any, field: str) -> float:
    """The value as a finite float, else a ``RowError``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(field, f"expected a number, found {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(field, f"expected a finite number, found {number}")
    return number


def parse_ratings(row: dict[str, Any], attributes: Sequence[str]) -> dict[str, float]:
    """Finite ratings of a row; a missing one is left out, a wrong one raises ``RowError``."""
    return {
        name: finite_number(row[name], name) for name in attributes if row.get(name) is not None
    }


def pairs_from_ratings(
    rated: Sequence[RatedResponse],
    attributes: Sequence[str],
    config: DataConfig,
    collection: Collection,
) -> None:
    """Add to a collection the pairs, refusals and ties that rated responses make.

    ``pairing="adjacent"`` compares neighbouring rows of one prompt two by two, ``"all"`` every two
    responses of a prompt wherever they stand. ``drop_unanimous`` leaves out of the training split
    the responses that every attribute ranks the same way (paper, section 5.1).
    """
    for group in _groups(rated, config.pairing):
        if len(group) == 1:
            reason = "no second response to its prompt to compare with"
            collection.refusals.append(Refusal(group[0].row, "response", reason, group[0].file))
        for first, second in itertools.combinations(group, 2):
            if first.response == second.response:
                reason = f"{SAME_TEXT} (row {first.row})"
                collection.refusals.append(Refusal(second.row, "response", reason, second.file))
                continue
            shared = [a for a in attributes if a in first.ratings and a in second.ratings]
            strict = [a for a in shared if first.ratings[a] != second.ratings[a]]
            collection.ties.update(a for a in shared if a not in strict)
            if config.drop_unanimous and first.split == "train":
                directions = {first.ratings[a] > second.ratings[a] for a in strict}
                if len(strict) == len(attributes) and len(directions) == 1:
                    collection.unanimous += 1
                    continue
            collection.pairs += [_pair(first, second, a, attributes, config.source) for a in strict]


def _groups(rated: Sequence[RatedResponse], pairing: str) -> list[list[RatedResponse]]:
    if pairing == "all":
        by_prompt: dict[tuple[str, tuple[Message, ...]], list[RatedResponse]] = {}
        for item in rated:
            by_prompt.setdefault((item.split, item.prompt), []).append(item)
        return list(by_prompt.values())
    groups: list[list[RatedResponse]] = []
    for item in rated:
        open_pair = groups and len(groups[-1]) == 1
        if open_pair and groups[-1][0].prompt == item.prompt and groups[-1][0].split == item.split:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _pair(
    first: RatedResponse,
    second: RatedResponse,
    attribute: str,
    attributes: Sequence[str],
    source: str,
) -> PreferencePair:
    margin = first.ratings[attribute] - second.ratings[attribute]
    better, worse = (first, second) if margin > 0 else (second, first)
    return PreferencePair(
        prompt=first.prompt,
        chosen=better.response,
        rejected=worse.response,
        split=first.split,
        source=source,
        attribute=attribute,
        user=better.user if better.user == worse.user else None,
        context=better.context if better.context == worse.context else None,
        margin=abs(margin),
        ratings=tuple(
            (name, better.ratings.get(name, math.nan), worse.ratings.get(name, math.nan))
            for name in attributes
        ),
        row=first.row,
    )
