"""The account of one pass over a data set: what became of every row that is not a pair."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .pair import Refusal


@dataclass(frozen=True)
class UpstreamRows:
    """Size of one table of a published data set.

    Attributes:
        where: The table in words, such as repository, revision and split.
        part: Name of the table.
        expected: Its number of rows when this version was written; None if unknown.
        found: The number of rows that were read.
    """

    where: str
    part: str
    expected: int | None
    found: int


@dataclass
class Account:
    """Everything about one pass over a data set that is not a pair.

    Attributes:
        pairs: Number of pairs yielded.
        rows: Number of rows read.
        refusals: Rows that cannot be used, with the reason but without their content. Each of them
            is printed or written to the quarantine.
        ties: Rating ties per attribute.
        unanimous: Pairs of responses dropped because every attribute ranks them the same way.
        left_out: Rows or pairs that a rule of the data set or a setting excludes, by reason.
        upstream: Sizes of the tables of a published data set.
        sources: Accounts of the parts of a union by source; the other fields are their sums.
        corrected: File and number of the rows that were read from ``data.corrections``.
    """

    pairs: int = 0
    rows: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    ties: Counter[str] = field(default_factory=Counter)
    unanimous: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    upstream: list[UpstreamRows] = field(default_factory=list)
    sources: dict[str, Account] = field(default_factory=dict)
    corrected: set[tuple[str, int]] = field(default_factory=set)

    def include(self, name: str, part: Account) -> None:
        """Add the account of one part of a union; parts with the same source are summed."""
        self.sources.setdefault(name, Account())._add(part)
        self._add(part)

    def _add(self, part: Account) -> None:
        self.rows += part.rows
        self.refusals += part.refusals
        self.ties += part.ties
        self.unanimous += part.unanimous
        self.left_out += part.left_out
        self.upstream += part.upstream
        self.corrected |= part.corrected
