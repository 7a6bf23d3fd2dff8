"""Names, types and identity of a store: what writer, reader and verifier agree on.

``<store>/manifest.json``          identity, and every file below with size and checksum
``<store>/shards/000000.h5``       ``vectors`` (n, d) and ``keys`` (n, 16); never rewritten
``<store>/pairs/<name>.h5``        one pair table: a row index per view and role, and labels
``<store>/quarantine/<name>.jsonl`` every refused row: row number, field, reason
``<store>/plan/``                  a job that is running or was stopped; the manifest lists its
                                   shards when all of them are sealed
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import xxhash

from ..common.errors import UserError

KEY_BYTES = 16
KEY_DTYPE = np.dtype(f"S{KEY_BYTES}")
# Physical type on disk per logical type: h5py would store bfloat16 as opaque bytes.
PHYSICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
}
LOGICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


# The exponent's bits of a bfloat16, a float32 and a float64, and the bytes looked at together.
EXPONENTS = {
    2: (np.uint16, np.uint16(0x7F80)),
    4: (np.uint32, np.uint32(0x7F800000)),
    8: (np.uint64, np.uint64(0x7FF0000000000000)),
}
FINITE_BLOCK = 1 << 20


def plan_path(store: Path) -> Path:
    """Where the plan of a store's running job lies."""
    return store / "plan"


def transaction_path(store: Path) -> Path:
    """Where a change of several files lies between its commit and its end."""
    return store / "change"


# Fields of an identity that name the same bytes in other words: a path, a tag.
DESCRIPTIVE = ("backbone", "revision")


class StoreError(UserError):
    """A store cannot be used as asked; the message names the file and says what to do."""


@dataclass(frozen=True)
class Identity:
    """Everything that may change a vector. Batch size, device and attention kernel may not.

    ``backbone`` and ``revision`` are for people; ``weights`` is what counts.
    """

    backbone: str
    revision: str
    weights: str
    tokenizer: str
    template: str
    probe: str
    bos: str
    pooling: str
    layer: str
    dtype: str
    max_length: int

    def differences(self, other: Identity) -> list[str]:
        """Fields that differ, as ``field: here X, there Y``."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the store has {mine[name]!r}, this run has {theirs[name]!r}"
            for name in mine
            if name not in DESCRIPTIVE and mine[name] != theirs[name]
        ]


@dataclass(frozen=True)
class Shard:
    """One sealed file of vectors, as the manifest lists it."""

    name: str
    rows: int
    bytes: int
    checksum: str
    job: str


@dataclass(frozen=True)
class FileSum:
    """Size and XXH3-128 of a file."""

    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a store. Global row numbers run through the shards in order.

    ``files`` are the others (pair tables, quarantine, reward head), each with what it may be: while
    it is replaced, the old and the new. ``next_shard`` is a number that no shard ever had.
    """

    identity: Identity
    width: int
    shards: tuple[Shard, ...] = ()
    files: Mapping[str, tuple[FileSum, ...]] = field(default_factory=dict)
    next_shard: int = 0
    format: int = 2

    @property
    def rows(self) -> int:
        """Number of vectors in sealed shards."""
        return sum(shard.rows for shard in self.shards)

    def layout(self, shards: int | None = None) -> str:
        """What global row numbers rest on: the first shards' names and rows, all by default."""
        first = self.shards[:shards]
        text = json.dumps([[shard.name, shard.rows] for shard in first])
        return f"{len(first)}:{xxhash.xxh3_128_hexdigest(text.encode())}"

    def fits(self, layout: str) -> bool:
        """Whether row numbers that rest on a layout are still right; format 1 recorded none."""
        count = layout.partition(":")[0]
        return not layout or (count.isdecimal() and self.layout(int(count)) == layout)


def sequence_key(token_ids: Sequence[int] | np.ndarray) -> bytes:
    """XXH3-128 of the token ids as little-endian int32: the address of a vector."""
    return xxhash.xxh3_128_digest(np.asarray(token_ids, dtype="<i4").tobytes())


def first_not_finite(vectors: np.ndarray) -> int | None:
    """The first row of (n, D) vectors with NaN or infinity, None if there is none.

    By their bits, which is faster than by their values: both have all bits of the exponent set.
    """
    bits, exponent = EXPONENTS[vectors.dtype.itemsize]
    step = max(1, FINITE_BLOCK // max(1, vectors.shape[1] * vectors.dtype.itemsize))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].view(bits) & exponent
        if block.size and block.max() == exponent:
            return start + int(np.flatnonzero((block == exponent).any(axis=1))[0])
    return None


def file_checksum(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
