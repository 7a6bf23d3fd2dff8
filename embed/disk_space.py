"""Room on the disk: what a job still needs, whether that fits, and what to say when it is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..cache.schema import KEY_BYTES, LOGICAL, StoreError
from ..cache.writer import ALIGNMENT
from .plan import TOKENS, Plan

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What NumPy says of a file that it wrote in part only; it keeps the system's number to itself.
HALF_WRITTEN = "requested and"
# A shard's headers, each of them aligned like its two arrays.
SHARD_EXTRA = 10 * ALIGNMENT
# Of a pair table: its empty columns; per pair the row numbers, references and short columns; and
# the bytes of text per byte of token ids, which count a prompt several times.
TABLE_BASE, PAIR_EXTRA, TEXT_PER_TOKEN_BYTE = 1 << 18, 600, 1.25


class SpaceError(StoreError):
    """A disk or quota is full, or too full to begin; what is sealed is kept."""


@dataclass(frozen=True)
class Needed:
    """Bytes that a job still writes: ``vectors`` to the byte but for headers, ``tables`` about."""

    vectors: int
    tables: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.vectors + self.tables

    def __str__(self) -> str:
        return (
            f"about {self.bytes:,} more bytes are needed to finish ({self.vectors:,} of vectors, "
            f"{self.tables:,} of tables)"
        )


def bytes_left(plan: Plan, store: Path, dtype: str) -> Needed:
    """What a plan still writes; sealed shards and those that are being written are not counted."""
    facts = plan.facts
    row = facts.width * LOGICAL[dtype].itemsize + KEY_BYTES
    whole = (facts.sequences - facts.stored) * row + facts.shards * SHARD_EXTRA
    written = sum(
        _size(path)
        for path in (store / "shards").glob("*")
        if path.name[:6].isdecimal() and int(path.name.partition(".")[0]) >= facts.first_shard
    )
    text = int(_size(plan.directory / TOKENS) * TEXT_PER_TOKEN_BYTE)
    pending = bool(plan.pending(store))
    return Needed(
        max(0, whole - written) if pending else 0, TABLE_BASE + facts.pairs * PAIR_EXTRA + text
    )


def free_bytes(store: Path) -> int:
    """Bytes that this user may still write where a store lies or will lie; quotas are not seen."""
    place = store.absolute()
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def shortage(plan: Plan, store: Path, dtype: str) -> str:
    """What does not fit on the disk and what to do, empty if all of the job does."""
    needed, free = bytes_left(plan, store, dtype), free_bytes(store)
    if needed.bytes <= free:
        return ""
    return f"{store}: {needed}, {free:,} are free; free space or choose another store.dir"


def require_space(plan: Plan, store: Path, dtype: str) -> None:
    """Refuse a job before its first forward pass if its results do not fit on the disk."""
    short = shortage(plan, store, dtype)
    if short:
        raise SpaceError(f"{short}. What is sealed is kept, and the same command goes on")


@contextmanager
def full_disk_explained(store: Path, left: Callable[[], Needed | None]) -> Iterator[None]:
    """Turn the errors of a full disk into a ``SpaceError``; ``left`` says what is to be written.

    Other errors of the disk stay what they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not (error.errno is None and HALF_WRITTEN in str(error)):
            raise
        needed = left()
        more = "how much is needed is known once the plan is written" if needed is None else needed
        raise SpaceError(
            f"{store}: the disk or the quota is full ({error}): {free_bytes(store):,} bytes are "
            f"free, {more}. What is sealed is kept: free space, then the same command goes on"
        ) from error


def _size(path: Path) -> int:
    """Bytes of a file, none if it has just got its final name or was never there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
