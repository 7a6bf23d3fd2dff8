"""Disk space: how much a job still needs, whether that fits, and errors of a full disk."""

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
# NumPy reports a partial write in words only, without the system's errno.
PARTIAL_WRITE = "requested and"
# Headers of a shard, which are aligned like its arrays.
SHARD_EXTRA = 10 * ALIGNMENT
# Size of a pair table: empty columns; row numbers, references and short columns per pair; bytes of
# text per byte of token ids. That ratio is low because a pair's sequences repeat the prompt.
TABLE_BASE, PAIR_EXTRA, TEXT_PER_TOKEN_BYTE = 1 << 18, 600, 1.25


class SpaceError(StoreError):
    """The disk or the quota is full, or has not enough space to begin; sealed shards are kept."""


@dataclass(frozen=True)
class RequiredSpace:
    """Bytes that a job still has to write.

    Attributes:
        vectors: Exact, except for the headers of the shards.
        tables: An estimate.
    """

    vectors: int
    tables: int

    @property
    def bytes(self) -> int:
        """Total."""
        return self.vectors + self.tables

    def __str__(self) -> str:
        return (
            f"about {self.bytes:,} more bytes are needed to finish ({self.vectors:,} of vectors, "
            f"{self.tables:,} of tables)"
        )


def required_space(plan: Plan, store: Path, dtype: str) -> RequiredSpace:
    """Bytes that a plan still has to write; what is written already is not counted."""
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
    return RequiredSpace(
        max(0, whole - written) if pending else 0, TABLE_BASE + facts.pairs * PAIR_EXTRA + text
    )


def free_bytes(store: Path) -> int:
    """Bytes that this user may still write on the store's file system, quotas disregarded.

    The store itself need not exist yet.
    """
    existing = store.absolute()
    while not existing.exists():
        existing = existing.parent
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def describe_shortage(plan: Plan, store: Path, dtype: str) -> str:
    """What does not fit on the disk and what to do about it; empty if the whole job fits."""
    needed, free = required_space(plan, store, dtype), free_bytes(store)
    if needed.bytes <= free:
        return ""
    return f"{store}: {needed}, {free:,} are free; free space or choose another store.dir"


def require_space(plan: Plan, store: Path, dtype: str) -> None:
    """Raise ``SpaceError`` if the results of a job do not fit on the disk."""
    shortage = describe_shortage(plan, store, dtype)
    if shortage:
        raise SpaceError(f"{shortage}. What is sealed is kept, and the same command goes on")


@contextmanager
def explain_full_disk(store: Path, left: Callable[[], RequiredSpace | None]) -> Iterator[None]:
    """Turn the errors of a full disk into ``SpaceError``; other errors pass through.

    ``left`` returns what is still to be written, None if that is not known yet.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not (error.errno is None and PARTIAL_WRITE in str(error)):
            raise
        needed = left()
        more = "how much is needed is known once the plan is written" if needed is None else needed
        raise SpaceError(
            f"{store}: the disk or the quota is full ({error}): {free_bytes(store):,} bytes are "
            f"free, {more}. What is sealed is kept: free space, then the same command goes on"
        ) from error


def _size(path: Path) -> int:
    """Size of a file; 0 if it does not exist or another process has just renamed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
