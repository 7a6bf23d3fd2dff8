"""Make pairs of rated responses: one per attribute and two responses to a prompt, as in HelpSteer2.

Equal ratings express no preference: such ties are dropped and counted per attribute.
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

# Differences of numbers up to this one are finite in float32, the type of a pair table.
MAX_MAGNITUDE = 1e30


@dataclass(frozen=True)
class RatedResponse:
    """A rated response, one row of a file of ratings.

    Attributes:
        row: Row number in ``file``, from 1.
        file: File or table that the row was read from.
        prompt: Messages of the prompt.
        response: Text of the response.
        split: train or test.
        user: User who rated it, if known.
        context: The user's stated wish for the answer, if any.
        ratings: Rating by attribute; missing ones are absent.
    """

    row: int
    file: str
    prompt: tuple[Message, ...]
    response: str
    split: str
    user: str | None
    context: str | None
    ratings: dict[str, Any]


def finite_number(value: Any, field: str) -> float:
    """Convert a number to a finite float. Raises ``RowError`` for anything else.

    Example:
        >>> finite_number(3, "helpfulness")
        3.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(field, f"expected a number, found {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(field, f"expected a finite number, found {number}")
    if abs(number) > MAX_MAGNITUDE:
        raise RowError(field, f"expected a number up to {MAX_MAGNITUDE:g}, found {number:g}")
    return number


def parse_ratings(row: dict[str, Any], attributes: Sequence[str]) -> dict[str, float]:
    """Ratings of a row by attribute, without missing ones. Raises ``RowError`` for a wrong one."""
    return {
        name: finite_number(row[name], name) for name in attributes if row.get(name) is not None
    }


class ResponsePairer:
    """Makes pairs of the rated responses of a file, which are added in the order of the file.

    ``config.pairing="adjacent"`` pairs neighbouring rows with the same prompt two by two and keeps
    a single row. ``"all"`` pairs every two responses to a prompt wherever they are, so it keeps all
    rated responses of the file until ``finish``. ``config.drop_unanimous`` drops training pairs
    that every attribute ranks the same way (paper, section 5.1). Refusals, ties and unanimous pairs
    are counted in ``account``.
    """

    def __init__(self, attributes: Sequence[str], config: DataConfig, account: Account) -> None:
        self.attributes = tuple(attributes)
        self.config = config
        self.account = account
        self._groups: dict[tuple[str, tuple[Message, ...]], list[RatedResponse]] = {}

    def add(self, item: RatedResponse) -> Iterator[PreferencePair]:
        """Yield the pairs that this response completes; exhaust them before the next ``add``."""
        key = (item.split, item.prompt)
        if self.config.pairing == "all":
            self._groups.setdefault(key, []).append(item)
        elif key in self._groups:
            yield from self._compare(self._groups.pop(key)[0], item)
        else:
            yield from self.finish()
            self._groups[key] = [item]

    def finish(self) -> Iterator[PreferencePair]:
        """Yield the remaining pairs, and refuse a response that is the only one to its prompt."""
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
        # A pair for each attribute with a strict preference; equal ratings are ties.
        strict = [a for a in shared if first.ratings[a] != second.ratings[a]]
        self.account.ties.update(a for a in shared if a not in strict)
        if self.config.drop_unanimous and first.split == "train":
            # Unanimous: a strict preference under every attribute, always in the same direction.
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
