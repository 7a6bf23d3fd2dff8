"""Rated responses to pairs: one pair per attribute and per two responses of a prompt (HelpSteer2).

Ties are no preference: they are dropped and counted per attribute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...configs.schema import DataConfig
from .account import Account
from .conversation import RowError
from .pair import SAME_TEXT, Message, PreferencePair, Refusal

# Differences of numbers below it are finite in the 32 bits of a pair table.
LARGEST = 1e30


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
    if abs(number) > LARGEST:
        raise RowError(field, f"expected a number up to {LARGEST:g}, found {number:g}")
    return number


def parse_ratings(row: dict[str, Any], attributes: Sequence[str]) -> dict[str, float]:
    """Finite ratings of a row; a missing one is left out, a wrong one raises ``RowError``."""
    return {
        name: finite_number(row[name], name) for name in attributes if row.get(name) is not None
    }


class Comparison:
    """The pairs of the rated responses of one file, which are given one by one in their order.

    ``pairing="adjacent"`` compares neighbouring rows of one prompt two by two and keeps the open
    row only. ``"all"`` compares every two responses of a prompt wherever they stand, so it keeps
    every rated response of the file in memory until ``finish``. ``drop_unanimous`` leaves out of
    the training split the responses that every attribute ranks the same way (paper, section 5.1).
    Refusals, ties and unanimous pairs go to ``account``.
    """

    def __init__(self, attributes: Sequence[str], config: DataConfig, account: Account) -> None:
        self.attributes = tuple(attributes)
        self.config = config
        self.account = account
        self._groups: dict[tuple[str, tuple[Message, ...]], list[RatedResponse]] = {}

    def add(self, item: RatedResponse) -> Iterator[PreferencePair]:
        """The pairs that this response completes; exhaust them before adding the next one."""
        key = (item.split, item.prompt)
        if self.config.pairing == "all":
            self._groups.setdefault(key, []).append(item)
        elif key in self._groups:
            yield from self._compare(self._groups.pop(key)[0], item)
        else:
            yield from self.finish()
            self._groups[key] = [item]

    def finish(self) -> Iterator[PreferencePair]:
        """The pairs that were waiting for more responses; one that stayed alone is refused."""
        groups, self._groups = self._groups, {}
        for group in groups.values():
            if len(group) == 1:
                reason = "no second response to its prompt to compare with"
                refusal = Refusal(group[0].row, "response", reason, group[0].file)
                self.account.refusals.append(refusal)
            for first, second in itertools.combinations(group, 2):
                yield from self._compare(first, second)

    def _compare(self, first: RatedResponse, second: RatedResponse) -> Iterator[PreferencePair]:
        if first.response == second.response:
            reason = f"{SAME_TEXT} (row {first.row})"
            self.account.refusals.append(Refusal(second.row, "response", reason, second.file))
            return
        shared = [a for a in self.attributes if a in first.ratings and a in second.ratings]
        strict = [a for a in shared if first.ratings[a] != second.ratings[a]]
        self.account.ties.update(a for a in shared if a not in strict)
        if self.config.drop_unanimous and first.split == "train":
            directions = {first.ratings[a] > second.ratings[a] for a in strict}
            if len(strict) == len(self.attributes) and len(directions) == 1:
                self.account.unanimous += 1
                return
        for attribute in strict:
            yield _pair(first, second, attribute, self.attributes, self.config.source)


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
        file=first.file,
    )
