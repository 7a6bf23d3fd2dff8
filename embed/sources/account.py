"""What one pass over a data set met besides its pairs; nothing of the input is unaccounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .pair import Refusal


@dataclass
class Account:
    """Everything about one pass over a data set that is not a pair.

    ``pairs`` counts the pairs yielded, ``rows`` the rows read, ``ties`` the rating ties per
    attribute, ``unanimous`` the pairs of responses that were dropped because every attribute ranks
    them the same way. ``refusals`` is a list, one entry per refusal with its reason: refusals are
    few, and each of them is printed or written to the quarantine. They hold a reason, not the row.
    """

    pairs: int = 0
    rows: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    ties: Counter[str] = field(default_factory=Counter)
    unanimous: int = 0
