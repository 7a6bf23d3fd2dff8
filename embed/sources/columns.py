"""Which columns of a ratings file hold ratings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# With this many rows a column of distinct integers is taken for a row number, not for a rating.
ROW_NUMBERS = 10


class _Column:
    """Whether the values of a column, seen one by one, can be ratings."""

    def __init__(self) -> None:
        self.whole = 0
        self.others = 0
        self.distinct: set[int] | None = set()  # given up at the first repetition

    def add(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            self.others += 1
            return
        self.whole += 1
        if self.distinct is not None:
            self.distinct.add(value)
            if len(self.distinct) < self.whole:
                self.distinct = None

    @property
    def may_be_rating(self) -> bool:
        if self.whole <= self.others:
            return False
        return self.whole < ROW_NUMBERS or self.distinct is None


def rating_columns(rows: Iterable[dict[str, Any]], known: set[str]) -> tuple[str, ...]:
    """Columns that hold an integer in more than half of the rows that have them.

    What else stands there is refused with its row later: one wrong value must not make a column
    disappear. ``known`` columns are no ratings, and neither is one with another integer in every
    row: that is a row number. The rows are read once and not kept, but of a row number all are.
    """
    columns: dict[str, _Column] = {}
    for row in rows:
        for name, value in row.items():
            if name not in known and value is not None:
                columns.setdefault(name, _Column()).add(value)
    return tuple(name for name, column in columns.items() if column.may_be_rating)
