"""Reading vectors by key or by global row, through memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from .schema import (
    KEY_BYTES,
    KEY_DTYPE,
    LOGICAL,
    PHYSICAL,
    Manifest,
    Shard,
    StoreError,
    dataset,
    read_manifest,
)


class FeatureStore:
    """A store opened for reading: sealed shards only, checked for type, width and row count.

    Vectors come back in the logical type of the backbone, unconverted.
    """

    def __init__(self, store: Path | str) -> None:
        self.path = Path(store)
        self.manifest: Manifest = read_manifest(self.path)
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._maps = [
            open_vectors(self.path / "shards" / shard.name, self.manifest, shard)
            for shard in self.manifest.shards
        ]

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.manifest.width

    def keys(self) -> np.ndarray:
        """Keys in global row order."""
        parts = [read_keys(self.path / "shards" / shard.name) for shard in self.manifest.shards]
        return np.concatenate(parts) if parts else np.empty(0, KEY_DTYPE)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of global rows, in the order asked for, as ``(len(rows), width)``."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise StoreError(
                f"{self.path}: asked for rows {rows.min()}..{rows.max()}, "
                f"the store has {len(self)}; run micro-rm embed again"
            )
        out = np.empty((rows.size, self.width), LOGICAL[self.manifest.identity.dtype])
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            out[here] = self._maps[number][rows[here] - self._starts[number]]
        return out


class KeyIndex:
    """Global rows by key: a sorted copy of the keys and a binary search."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def rows(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Global row per key, -1 where the store has none."""
        wanted = np.array(keys, dtype=KEY_DTYPE)
        if self._sorted.size == 0:
            return np.full(wanted.shape, -1, np.int64)
        place = np.searchsorted(self._sorted, wanted)
        place = np.minimum(place, self._sorted.size - 1)
        return np.where(self._sorted[place] == wanted, self._order[place], -1)


def read_keys(path: Path) -> np.ndarray:
    """The keys of one shard as 16-byte strings, in row order."""
    with open_shard(path) as file:
        return dataset(file, "keys")[:].reshape(-1).view(KEY_DTYPE)


def open_vectors(path: Path, manifest: Manifest, shard: Shard) -> np.ndarray:
    """A read-only memory map of a shard's vectors in their logical type.

    Raises ``StoreError`` if the file is missing or does not hold what the manifest says.
    """
    logical = manifest.identity.dtype
    with open_shard(path) as file:
        vectors, keys = dataset(file, "vectors"), dataset(file, "keys")
        stored = file.attrs.get("logical_dtype")
        expected = (shard.rows, manifest.width)
        if vectors.shape != expected or vectors.dtype != PHYSICAL[logical] or stored != logical:
            raise StoreError(
                f"{path}: expected vectors {expected} of {logical}, found {vectors.shape} of "
                f"{stored}; run micro-rm verify"
            )
        if keys.shape != (shard.rows, KEY_BYTES):
            raise StoreError(f"{path}: {keys.shape[0]} keys for {shard.rows} vectors")
        offset = vectors.id.get_offset()
    flat = np.memmap(path, PHYSICAL[logical], mode="r", offset=offset, shape=expected)
    return flat.view(LOGICAL[logical])


def open_shard(path: Path) -> h5py.File:
    """An HDF5 file of the store, or a ``StoreError`` that says what is wrong with it."""
    if not path.is_file():
        raise StoreError(f"{path}: missing, though the manifest lists it; run micro-rm verify")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not readable as HDF5 ({error}); run micro-rm verify") from error
