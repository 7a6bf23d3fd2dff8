"""Reading vectors by key or by global row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from .bulk import SLICE_BYTES, ShardFile, in_slices, read_rows
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

# Mean bytes per run of adjacent rows from which reading them beats copying them out of the map.
RUN_BYTES = 1 << 20


class FeatureStore:
    """A store opened for reading: sealed shards only, checked for type, width and row count.

    Vectors come back in the logical type of the backbone, unconverted. Every method may be called
    from several threads.
    """

    def __init__(self, store: Path | str) -> None:
        self.path = Path(store)
        self.manifest: Manifest = read_manifest(self.path)
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._files = [
            locate_vectors(self.path / "shards" / shard.name, self.manifest, shard)
            for shard in self.manifest.shards
        ]
        # Made when needed: each holds a file open, and big stores have thousands.
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.manifest.width

    @property
    def dtype(self) -> np.dtype:
        """Logical type of the vectors."""
        return LOGICAL[self.manifest.identity.dtype]

    def keys(self) -> np.ndarray:
        """Keys in global row order."""
        parts = [read_keys(self.path / "shards" / shard.name) for shard in self.manifest.shards]
        return np.concatenate(parts) if parts else np.empty(0, KEY_DTYPE)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """The vectors of rows ``start`` to ``stop``, as ``(stop - start, width)``.

        They are put into ``out`` if it is given: a contiguous array of that shape and type. Raises
        ``StoreError`` for rows or an array that do not fit, and for a truncated shard.
        """
        if not 0 <= start <= stop <= len(self):
            raise self._outside(start, stop - 1)
        shape = (stop - start, self.width)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise StoreError(
                f"{self.path}: expected a contiguous array of {shape} {self.dtype} to read into, "
                f"found {out.shape} {out.dtype}; make one of that shape and type"
            )

        def work(first: int, last: int) -> None:
            places = np.arange(first, last)
            self._read_rows(start + places, places, out)

        in_slices(work, len(out), self._row_bytes)
        return out

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of global rows, in the order asked for, as ``(len(rows), width)``.

        The fastest way to a minibatch. Pages that were touched count as memory of the process;
        ``gather`` is for stores larger than memory. Raises ``StoreError`` for rows outside.
        """
        rows = self._checked(rows)
        if rows.size * self._row_bytes > SLICE_BYTES:
            runs = 1 + np.count_nonzero(np.diff(rows) != 1)
            if rows.size * self._row_bytes // runs >= RUN_BYTES:
                return self.gather(rows)
        out = np.empty((rows.size, self.width), self.dtype)

        def work(first: int, last: int) -> None:
            self._take(rows[first:last], out[first:last])

        in_slices(work, rows.size, self._row_bytes)
        return out

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The same as ``vectors``, but memory grows by the result only: nothing is mapped.

        Raises ``StoreError`` for rows outside and for a truncated shard.
        """
        rows = self._checked(rows)
        order = np.argsort(rows, kind="stable")
        out = np.empty((rows.size, self.width), self.dtype)

        def work(first: int, last: int) -> None:
            places = order[first:last]
            self._read_rows(rows[places], places, out)

        in_slices(work, rows.size, self._row_bytes)
        return out

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise self._outside(rows.min(), rows.max())
        return rows

    def _outside(self, first: int, last: int) -> StoreError:
        return StoreError(
            f"{self.path}: asked for rows {first}..{last}, "
            f"the store has {len(self)}; run micro-rm embed again"
        )

    def _shards_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _read_rows(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        shards = self._shards_of(rows)
        read_rows(self._files, shards, rows - self._starts[shards], places, out)

    def _take(self, rows: np.ndarray, out: np.ndarray) -> None:
        shards = self._shards_of(rows)
        rows = rows - self._starts[shards]
        if (shards == shards[0]).all():
            self._copy(int(shards[0]), rows, out)
            return
        # Two takes, by shard and into order, are faster than fancy assignment or a loop.
        order = np.argsort(shards, kind="stable")
        rows, by_shard = rows[order], np.empty_like(out)
        edges = np.flatnonzero(np.diff(shards[order], prepend=-1, append=-1)).tolist()
        for first, last in pairwise(edges):
            self._copy(int(shards[order[first]]), rows[first:last], by_shard[first:last])
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        np.take(by_shard, back, axis=0, out=out, mode="clip")

    def _copy(self, shard: int, rows: np.ndarray, out: np.ndarray) -> None:
        if shard not in self._maps:
            file = self._files[shard]
            shape = (self.manifest.shards[shard].rows, self.width)
            self._maps[shard] = map_vectors(file, shape, self.manifest.identity.dtype)
        # Rows are checked already; unless it may clip, NumPy copies through a buffer.
        np.take(self._maps[shard], rows, axis=0, out=out, mode="clip")


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
    file = locate_vectors(path, manifest, shard)
    return map_vectors(file, (shard.rows, manifest.width), manifest.identity.dtype)


def locate_vectors(path: Path, manifest: Manifest, shard: Shard) -> ShardFile:
    """Where a shard's vectors lie in its file.

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
    if offset is None:
        raise StoreError(f"{path}: expected vectors in one piece, found chunks; embed again")
    return ShardFile(path, offset)


def map_vectors(file: ShardFile, shape: tuple[int, int], logical: str) -> np.ndarray:
    """A read-only memory map of vectors in their logical type.

    Raises ``StoreError`` if the file cannot be mapped.
    """
    try:
        flat = np.memmap(file.path, PHYSICAL[logical], mode="r", offset=file.offset, shape=shape)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file.path}: cannot be mapped ({error}); run micro-rm verify") from error
    return flat.view(np.ndarray).view(LOGICAL[logical])


def open_shard(path: Path) -> h5py.File:
    """An HDF5 file of the store, or a ``StoreError`` that says what is wrong with it."""
    if not path.is_file():
        raise StoreError(f"{path}: missing, though the manifest lists it; run micro-rm verify")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not readable as HDF5 ({error}); run micro-rm verify") from error
