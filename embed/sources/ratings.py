"""Rated responses to pairs: one pair per attribute and per two responses of a prompt (HelpSteer2).

Ties are no preference: they are dropped and counted per attribute.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .conversation import RowError
from .pair import Message, PreferencePair, Refusal


@dataclass(frozen=True)
class RatedResponse:
    """One row of a ratings file."""

    row: int
    file: str
    prompt: tuple[Message, ...]
    response: str
    split: str
    user: str | None
    ratings: dict[str, Any]


def rating_columns(rows: Iterable[dict[str, Any]], known: set[str]) -> tuple[str, ...]:
    """Columns that hold an integer in every row that has them; ``known`` ones are no ratings."""
    verdicts: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            if name not in known and value is not None:
                whole = isinstance(value, int) and not isinstance(value, bool)
                verdicts[name] = verdicts.get(name, True) and whole
    return tuple(name for name, whole in verdicts.items() if whole)


def parse_ratings(row: dict[str, Any], attributes: Sequence[str]) -> dict[str, float]:
    """Finite ratings of a row; a missing one is left out, a wrong one raises ``RowError``."""
    ratings = {}
    for name in attributes:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RowError(name, f"expected a number, found {type(value).__name__}")
        if not math.isfinite(value):
            raise RowError(name, f"expected a finite number, found {value}")
        ratings[name] = float(value)
    return ratings


def pairs_from_ratings(
    rated: Sequence[RatedResponse], attributes: Sequence[str], source: str, pairing: str
) -> tuple[list[PreferencePair], list[Refusal], Counter[str]]:
    """Pairs, refusals (no partner, or two equal responses) and the number of ties per attribute.

    ``pairing="adjacent"`` compares neighbouring rows of one prompt two by two, ``"all"`` every two
    responses of a prompt wherever they stand.
    """
    pairs: list[PreferencePair] = []
    refusals: list[Refusal] = []
    ties: Counter[str] = Counter()
    for group in _groups(rated, pairing):
        if len(group) == 1:
            reason = "no second response to its prompt to compare with"
            refusals.append(Refusal(group[0].row, "response", reason, group[0].file))
        for first, second in itertools.combinations(group, 2):
            if first.response == second.response:
                reason = f"the same response as row {first.row}"
                refusals.append(Refusal(second.row, "response", reason, second.file))
                continue
            for attribute in attributes:
                if attribute not in first.ratings or attribute not in second.ratings:
                    continue
                if first.ratings[attribute] == second.ratings[attribute]:
                    ties[attribute] += 1
                else:
                    pairs.append(_pair(first, second, attribute, source))
    return pairs, refusals, ties


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
    first: RatedResponse, second: RatedResponse, attribute: str, source: str
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
        margin=abs(margin),
        row=first.row,
    )
