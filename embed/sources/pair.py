"""The records that every data source produces: preference pairs, and refusals of rows."""

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
# Limits of lists of column names in messages: names, and characters of each.
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
    """One comparison of two responses to a prompt.

    Attributes:
        prompt: Messages of the prompt, the last one by the user.
        chosen: The preferred response.
        rejected: The other response.
        split: train, test, or adapt for rows that only stage 2 may learn from.
        source: Name of the data source.
        attribute: Criterion under which ``chosen`` was preferred.
        context: The user's stated wish for the answer, which a router may read.
        user: User who judged the pair.
        margin: Rating difference, if the data have ratings.
        ratings: All ratings of both responses as (attribute, chosen, rejected), with NaN for a
            missing one.
        row: Row number in ``file``, from 1.
        file: File or table that the pair was read from.

    Prompt, responses, attribute, context and user are the identity of a pair, the rest is not.
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
        """32 hex digits, a hash of the content: the same in any file and at any row."""
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
        """32 hex digits, a hash of the prompt; splits and bootstrap resamples are by prompt."""
        return content_id([list(turn) for turn in self.prompt])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row, or a pair made from one, that cannot be used.

    Attributes:
        row: Row number in ``file``, from 1.
        field: Column or part of it that is wrong; empty for the row as a whole.
        reason: What is wrong.
        file: File or table of the row.
    """

    row: int
    field: str
    reason: str
    file: str = ""


def short_repr(value: object) -> str:
    """A short line of ASCII for any value, however long, nested or unprintable it is."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode("ascii")


def short_list(names: Iterable[object]) -> str:
    """The first names of a list for a message, and how many more there are.

    Example:
        >>> short_list(f"c{number}" for number in range(14))
        'c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    printable = (str(name) if str(name).isprintable() else ascii(name) for name in names)
    return ", ".join(name[:SHOWN_LETTERS] for name in list(printable)[:SHOWN_NAMES]) + more


def content_id(*parts: object) -> str:
    """32 hex digits: XXH3-128 of the parts as ASCII JSON, in which lone surrogates are escaped."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, ensure_ascii=True).encode("ascii"))


def hash_fraction(*parts: object) -> float:
    """A pseudo-random number in [0, 1) that depends on the parts alone.

    Example:
        >>> hash_fraction("split", "a prompt") == hash_fraction("split", "a prompt")
        True
    """
    return int(content_id(*parts)[:13], 16) / 16**13
