"""What a source found: pairs, refusals and counts; nothing of the input is unaccounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .pair import PreferencePair, Refusal


@dataclass
class Collection:
    """Pairs of one data set together with the account of everything that is not a pair.

    ``rows`` counts the rows read, ``ties`` the rating ties per attribute, ``unanimous`` the pairs
    of responses that were dropped because every attribute ranks them the same way.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    rows: int = 0
    ties: Counter[str] = field(default_factory=Counter)
    unanimous: int = 0
