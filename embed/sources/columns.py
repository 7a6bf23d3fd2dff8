"""Recognise the rating columns of a file of rated responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# From this many rows on, a column of distinct integers is taken for an id and not for a rating.
MIN_ROWS_OF_AN_ID = 10


class _Column:
    """Statistics of one column that decide whether its values are ratings."""

    def __init__(self) -> None:
        self.integers = 0
        self.others = 0
        self.distinct: set[int] | None = set()  # None after the first repeated value

    def add(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            self.others += 1
            return
        self.integers += 1
        if self.distinct is not None:
            self.distinct.add(value)
            if len(self.distinct) < self.integers:
                self.distinct = None

    @property
    def may_be_rating(self) -> bool:
        if self.integers <= self.others:
            return False
        return self.integers < MIN_ROWS_OF_AN_ID or self.distinct is None


def rating_columns(rows: Iterable[dict[str, Any]], reserved: set[str]) -> tuple[str, ...]:
    """Columns with an integer in more than half of the rows that have a value.

    A few wrong values do not disqualify a column; their rows are refused later. Columns named in
    ``reserved`` are never ratings, nor is a column of distinct integers, which is an id. Rows are
    read once and not kept; memory grows only with the ids.

    Example:
        >>> rows = [{"prompt": "a", "help": 4, "brief": 1}, {"prompt": "b", "help": 2}]
        >>> rating_columns(rows, reserved={"prompt"})
        ('help', 'brief')
    """
    columns: dict[str, _Column] = {}
    for row in rows:
        for name, value in row.items():
            if name not in reserved and value is not None:
                columns.setdefault(name, _Column()).add(value)
    return tuple(name for name, column in columns.items() if column.may_be_rating)
