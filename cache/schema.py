"""The store's format: file names, types and identity, shared by writer, reader and verifier.

``<store>/manifest.json``           identity of the store; size and checksum of the files below
``<store>/shards/000000.h5``        ``vectors`` (n, D) and ``keys`` (n, 16); never rewritten
``<store>/pairs/<name>.h5``         a pair table: row indices per view and role, labels, texts
``<store>/quarantine/<name>.jsonl`` the rejected input rows: row number, field, reason
``<store>/native_head.h5``          the backbone's own reward head, if it has one
``<store>/plan/``                   the plan of a running or stopped job; its shards enter the
                                    manifest once all of them are sealed
``<store>/change/``                 a committed transaction that is still being applied
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
# Type on disk per type of the backbone: h5py would store bfloat16 as opaque bytes.
PHYSICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
}
LOGICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# Per item size (bfloat16, float32, float64): the unsigned type of the same width, and the mask of
# the exponent bits.
EXPONENTS = {
    2: (np.uint16, np.uint16(0x7F80)),
    4: (np.uint32, np.uint32(0x7F800000)),
    8: (np.uint64, np.uint64(0x7FF0000000000000)),
}
FINITE_BLOCK = 1 << 20  # bytes tested at once; bounds the temporary copy
# Fields of an identity that only name the model (a path, a tag): the same weights may have several.
DESCRIPTIVE = ("backbone", "revision")


def plan_path(store: Path) -> Path:
    """Directory of the plan of the store's unfinished job."""
    return store / "plan"


def transaction_path(store: Path) -> Path:
    """Directory of a transaction that is committed but not yet applied."""
    return store / "change"


class StoreError(UserError):
    """A store cannot be used as requested; the message names the file and the remedy."""


@dataclass(frozen=True)
class Identity:
    """Everything that determines a sequence's vector; two stores are compatible if it is equal.

    Batch size, device and attention kernel are no part of it: they may change the rounding only.
    ``backbone`` and ``revision`` are informative only: ``weights``, a sha256, identifies the model.
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
        """One sentence per field that differs, without the descriptive ones."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the store has {mine[name]!r}, this run has {theirs[name]!r}"
            for name in mine
            if name not in DESCRIPTIVE and mine[name] != theirs[name]
        ]


@dataclass(frozen=True)
class Shard:
    """Manifest entry of a sealed shard; ``job`` is the id of the embedding job that wrote it."""

    name: str
    rows: int
    bytes: int
    checksum: str
    job: str


@dataclass(frozen=True)
class FileSum:
    """Size in bytes and XXH3-128 checksum (hex) of a file."""

    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """Contents of a store. Global row indices count through the shards in the order listed.

    ``files`` maps every other file (pair tables, quarantine, reward head) to the contents it may
    have: usually one, two while the file is being replaced. ``next_shard`` is larger than the
    number of any shard that the store ever had, so that numbers are never reused.
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
        """Fingerprint of the shards that global row indices refer to.

        It covers names and row counts of the first ``shards`` shards, by default of all. Appending
        shards leaves older row indices valid, which ``fits`` relies on.
        """
        first = self.shards[:shards]
        text = json.dumps([[shard.name, shard.rows] for shard in first])
        return f"{len(first)}:{xxhash.xxh3_128_hexdigest(text.encode())}"

    def fits(self, layout: str) -> bool:
        """Whether row indices made under ``layout`` are still valid in this store.

        True for an empty layout: format 1 recorded none.
        """
        count = layout.partition(":")[0]
        return not layout or (count.isdecimal() and self.layout(int(count)) == layout)


def sequence_key(token_ids: Sequence[int] | np.ndarray) -> bytes:
    """XXH3-128 of the token ids as little-endian int32: the 16-byte key of a vector.

    >>> sequence_key([1, 2, 3]).hex()
    'a76f94d1118f3bcfe6d1006dda205ce7'
    """
    return xxhash.xxh3_128_digest(np.asarray(token_ids, dtype="<i4").tobytes())


def first_not_finite(vectors: np.ndarray) -> int | None:
    """Index of the first row of (n, D) vectors that holds NaN or infinity, None if all are finite.

    Tests the bit patterns, which is faster than ``np.isfinite`` and works for bfloat16: NaN and
    infinity are exactly the values with all exponent bits set.

    >>> first_not_finite(np.array([[1.0, 2.0], [np.inf, 0.0]], np.float32))
    1
    """
    bits, exponent = EXPONENTS[vectors.dtype.itemsize]
    step = max(1, FINITE_BLOCK // max(1, vectors.shape[1] * vectors.dtype.itemsize))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].view(bits) & exponent
        if block.size and block.max() == exponent:
            return start + int(np.flatnonzero((block == exponent).any(axis=1))[0])
    return None


def file_checksum(path: Path) -> str:
    """XXH3-128 of a file's bytes, as 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
