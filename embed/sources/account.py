"""What one pass over a data set met besides its pairs; nothing of the input is unaccounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .pair import Refusal


@dataclass(frozen=True)
class UpstreamRows:
    """Rows of one table of a published data set, and how many there were when it was described."""

    where: str
    part: str
    expected: int | None
    found: int


@dataclass
class Account:
    """Everything about one pass over a data set that is not a pair.

    ``pairs`` counts the pairs yielded, ``rows`` the rows read, ``ties`` the rating ties per
    attribute, ``unanimous`` the pairs of responses that were dropped because every attribute ranks
    them the same way, ``left_out`` what a rule of the data set or a setting leaves out, by reason.
    ``refusals`` is a list, one entry per refusal with its reason: refusals are few, and each of
    them is printed or written to the quarantine. They hold a reason, not the row. ``sources`` are
    the accounts of the parts of a union, which the other fields sum up. ``corrected`` are the rows,
    by file and number, that were read as somebody corrected them.
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
        """Add the account of a part of a union; parts of one name are added up."""
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
