"""The one record that every data source produces, and the refusals that it counts instead."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash

from ...common.errors import UserError

SAME_TEXT = "chosen and rejected are the same text"
ROLES = ("system", "user", "assistant")
SHOWN_NAMES = 12
SHOWN_LETTERS = 60


class DataError(UserError):
    """The data cannot be used; the message names the file, the row, the field and the remedy."""


class Message(NamedTuple):
    """One chat turn."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One comparison, oriented chosen first.

    ``attribute`` names the criterion under which ``chosen`` won, ``context`` is the wish in words
    that a router may read, ``user`` the rater. Any of them may be missing. ``margin`` is the
    rating difference where the data has one, ``ratings`` all ratings of both responses as
    (attribute, chosen, rejected), NaN where one is missing. ``row`` is the row of the file that the
    pair comes from and ``file`` that file, for tracing. None of the four is part of the pair's
    identity.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    split: str
    source: str
    attribute: str | None = None
    context: str | None = None
    user: str | None = None
    margin: float | None = None
    ratings: tuple[tuple[str, float, float], ...] = ()
    row: int = 0
    file: str = field(default="", compare=False)

    @property
    def pair_id(self) -> str:
        """32 hex digits from the content: the same pair has the same id in any file or order."""
        return content_id(
            [list(turn) for turn in self.prompt],
            self.chosen,
            self.rejected,
            self.attribute,
            self.context,
            self.user,
        )

    @property
    def prompt_id(self) -> str:
        """32 hex digits from the prompt alone: the unit of splitting and of resampling."""
        return content_id([list(turn) for turn in self.prompt])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row, or a pair built from one, that is left out, with the reason to print."""

    row: int
    field: str
    reason: str
    file: str = ""


def shown(value: object) -> str:
    """A value in a reason: however long, deep or unprintable it is, a short line of ASCII."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode("ascii")


def listed(names: Iterable[object]) -> str:
    """The first names of a row's columns, for a reason."""
    found = list(names)
    more = f" and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
    plain = (str(name) if str(name).isprintable() else ascii(name) for name in found)
    return ", ".join(name[:SHOWN_LETTERS] for name in list(plain)[:SHOWN_NAMES]) + more


def content_id(*parts: object) -> str:
    """XXH3-128 of the parts as canonical JSON (escaped, so lone surrogates hash too)."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, ensure_ascii=True).encode("ascii"))


def hash_fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts and on nothing else."""
    return int(content_id(*parts)[:13], 16) / 16**13
