"""Reading vectors by key or by global row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from .hdf5 import dataset, open_hdf5
from .manifest import parse_identity, read_manifest
from .positional_reads import SLICE_BYTES, THREADS, ShardFile, in_slices, read_rows
from .schema import (
    KEY_BYTES,
    KEY_DTYPE,
    LOGICAL,
    PHYSICAL,
    Identity,
    Manifest,
    Shard,
    StoreError,
    file_checksum,
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

    def require_sound(self, rows: np.ndarray) -> None:
        """Read the shards of some global rows once and compare their checksums.

        Raises ``StoreError`` for the first one whose bytes are not those that were sealed.
        """
        used = np.unique(self._shards_of(self._checked(rows)))

        def check(place: int) -> None:
            shard, path = self.manifest.shards[place], self._files[place].path
            if path.stat().st_size != shard.bytes or file_checksum(path) != shard.checksum:
                raise StoreError(
                    f"{path}: its bytes are not those that were sealed; micro-rm verify "
                    f"{self.path} says what to do"
                )

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(check, used.tolist()))

    def require_layout(self, layout: str, table: str) -> None:
        """Refuse a pair table whose row numbers rest on other shards than this store has."""
        if not self.manifest.fits(layout):
            raise StoreError(
                f"{self.path}: the row numbers of pair table {table!r} are those of other shards "
                "(some were removed, rebuilt or exchanged); run micro-rm embed for it again"
            )

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
    with open_hdf5(path) as file:
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
    with open_hdf5(path) as file:
        vectors, keys = dataset(file, "vectors"), dataset(file, "keys")
        stored = file.attrs.get("logical_dtype")
        expected = (shard.rows, manifest.width)
        if vectors.shape != expected or vectors.dtype != PHYSICAL[logical] or stored != logical:
            raise StoreError(
                f"{path}: expected vectors {expected} of {logical}, found {vectors.shape} of "
                f"{stored}; run micro-rm verify"
            )
        differences = manifest.identity.differences(shard_identity(file)[0])
        if differences:
            raise StoreError(
                f"{path}: of another store ({'; '.join(differences)}); run micro-rm verify"
            )
        if keys.shape != (shard.rows, KEY_BYTES):
            raise StoreError(f"{path}: {keys.shape[0]} keys for {shard.rows} vectors")
        # A shard whose every sequence failed has no bytes of vectors.
        offset = vectors.id.get_offset() if shard.rows else 0
    if offset is None:
        raise StoreError(f"{path}: expected vectors in one piece, found chunks; embed again")
    return ShardFile(path, offset)


def shard_identity(file: h5py.File) -> tuple[Identity, str]:
    """Identity and job of an open shard; ``StoreError`` if it names none."""
    try:
        identity = parse_identity(json.loads(str(file.attrs["identity"])))
        return identity, str(file.attrs["job"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{file.filename}: not a shard ({error}); move it away") from error


def map_vectors(file: ShardFile, shape: tuple[int, int], logical: str) -> np.ndarray:
    """A read-only memory map of vectors in their logical type.

    Raises ``StoreError`` if the file cannot be mapped.
    """
    if not shape[0]:
        return np.empty(shape, LOGICAL[logical])
    try:
        flat = np.memmap(file.path, PHYSICAL[logical], mode="r", offset=file.offset, shape=shape)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file.path}: cannot be mapped ({error}); run micro-rm verify") from error
    return flat.view(np.ndarray).view(LOGICAL[logical])
