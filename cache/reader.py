"""Read the vectors of a store by key or by global row index.

A global row index counts through the shards in the order of the manifest.
"""

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

# Mean bytes per run of adjacent rows from which on reads are faster than copies from a memory map.
RUN_BYTES = 1 << 20


class FeatureStore:
    """A store opened for reading.

    Only shards that the manifest lists are seen; opening checks their dtype, width and row count,
    not their checksums. Shards that are added later need a new ``FeatureStore``. Vectors come in
    the dtype that the backbone computed in. All methods are thread-safe.

    Args:
        store: Directory of the store.

    Raises:
        StoreError: There is no store, or its files disagree with its manifest.
    """

    def __init__(self, store: Path | str) -> None:
        self.path: Path = Path(store)
        self.manifest: Manifest = read_manifest(self.path)
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._files = [
            locate_vectors(self.path / "shards" / shard.name, self.manifest, shard)
            for shard in self.manifest.shards
        ]
        # Filled on demand: a map holds its file open, and big stores have thousands of shards.
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def width(self) -> int:
        """Features per vector, D."""
        return self.manifest.width

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the vectors as they are returned: float32 or bfloat16."""
        return LOGICAL[self.manifest.identity.dtype]

    def require_sound(self, rows: np.ndarray) -> None:
        """Verify the checksum of every shard that holds one of the global rows.

        Reads these shards in full. Raises ``StoreError`` for a shard whose bytes have changed since
        it was sealed.
        """
        used = np.unique(self._shards_of(self._checked(rows)))

        def check(index: int) -> None:
            shard, path = self.manifest.shards[index], self._files[index].path
            if path.stat().st_size != shard.bytes or file_checksum(path) != shard.checksum:
                raise StoreError(
                    f"{path}: its bytes are not those that were sealed; micro-rm verify "
                    f"{self.path} says what to do"
                )

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(check, used.tolist()))

    def require_layout(self, layout: str, table: str) -> None:
        """Raise ``StoreError`` if the row indices of a pair table refer to other shards.

        ``layout`` is that of the table named ``table`` (see ``Manifest.layout``).
        """
        if not self.manifest.fits(layout):
            raise StoreError(
                f"{self.path}: the row numbers of pair table {table!r} are those of other shards "
                "(some were removed, rebuilt or exchanged); run micro-rm embed for it again"
            )

    def keys(self) -> np.ndarray:
        """(len(self),) keys of all vectors, as 16-byte strings in global row order."""
        parts = [read_keys(self.path / "shards" / shard.name) for shard in self.manifest.shards]
        return np.concatenate(parts) if parts else np.empty(0, KEY_DTYPE)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a range of global rows.

        Args:
            start: First row.
            stop: Row after the last one.
            out: Contiguous array of the result's shape and dtype to read into.

        Returns:
            (stop - start, D) vectors; ``out`` if it was given.

        Raises:
            StoreError: The range is outside the store, ``out`` does not fit, or a shard is missing
                or truncated.
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
            slots = np.arange(first, last)
            self._read_rows(start + slots, slots, out)

        in_slices(work, len(out), self._row_bytes)
        return out

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Look up the vectors of global rows, in any order and with repeats.

        The fastest way to a minibatch. It copies from a memory map, whose touched pages count as
        memory of the process; use ``gather`` for a store larger than memory.

        Args:
            rows: (n,) global row indices.

        Returns:
            (n, D) vectors in the order of ``rows``.

        Raises:
            StoreError: A row is outside the store, or a shard cannot be mapped.
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
        """Look up vectors as ``vectors`` does, but by reads, without a memory map.

        Memory grows by the result only. Raises ``StoreError`` for a row outside the store and for a
        missing or truncated shard.
        """
        rows = self._checked(rows)
        order = np.argsort(rows, kind="stable")
        out = np.empty((rows.size, self.width), self.dtype)

        def work(first: int, last: int) -> None:
            slots = order[first:last]
            self._read_rows(rows[slots], slots, out)

        in_slices(work, rows.size, self._row_bytes)
        return out

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows as int64; ``StoreError`` if one is outside the store."""
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
        """(n,) index of the shard that holds each global row."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _read_rows(self, rows: np.ndarray, slots: np.ndarray, out: np.ndarray) -> None:
        """Read global rows, ascending, into rows ``slots`` of ``out``."""
        shards = self._shards_of(rows)
        read_rows(self._files, shards, rows - self._starts[shards], slots, out)

    def _take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy global rows, in their order, out of the memory maps."""
        shards = self._shards_of(rows)
        rows = rows - self._starts[shards]
        if (shards == shards[0]).all():
            self._copy(int(shards[0]), rows, out)
            return
        # Gather shard by shard into a temporary array, then permute it back into the order of
        # ``rows``: two takes are faster than fancy assignment or a loop over the rows.
        order = np.argsort(shards, kind="stable")
        rows, by_shard = rows[order], np.empty_like(out)
        edges = np.flatnonzero(np.diff(shards[order], prepend=-1, append=-1)).tolist()
        for first, last in pairwise(edges):
            self._copy(int(shards[order[first]]), rows[first:last], by_shard[first:last])
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size)
        np.take(by_shard, inverse, axis=0, out=out, mode="clip")

    def _copy(self, shard: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy rows of one shard, counted within it, out of its memory map."""
        if shard not in self._maps:
            file = self._files[shard]
            shape = (self.manifest.shards[shard].rows, self.width)
            self._maps[shard] = map_vectors(file, shape, self.manifest.identity.dtype)
        # The rows are in range. ``clip`` is for speed: with ``raise`` NumPy buffers the output.
        np.take(self._maps[shard], rows, axis=0, out=out, mode="clip")


class KeyIndex:
    """Maps keys to global row indices, by binary search in a sorted copy of the keys.

    Args:
        keys: (n,) keys in global row order, as ``FeatureStore.keys`` returns them.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def rows(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """(m,) global row of each of (m,) keys, -1 for a key that is not stored."""
        queries = np.array(keys, dtype=KEY_DTYPE)
        if self._sorted.size == 0:
            return np.full(queries.shape, -1, np.int64)
        position = np.searchsorted(self._sorted, queries)
        position = np.minimum(position, self._sorted.size - 1)  # beyond the last: no match either
        return np.where(self._sorted[position] == queries, self._order[position], -1)


def read_keys(path: Path) -> np.ndarray:
    """(n,) keys of one shard file as 16-byte strings, in row order."""
    with open_hdf5(path) as file:
        return dataset(file, "keys")[:].reshape(-1).view(KEY_DTYPE)


def open_vectors(path: Path, manifest: Manifest, shard: Shard) -> np.ndarray:
    """Memory-map the (n, D) vectors of a shard, read-only, in the backbone's dtype.

    Raises ``StoreError`` if the file is missing or disagrees with the manifest.
    """
    file = locate_vectors(path, manifest, shard)
    return map_vectors(file, (shard.rows, manifest.width), manifest.identity.dtype)


def locate_vectors(path: Path, manifest: Manifest, shard: Shard) -> ShardFile:
    """Check a shard file against its manifest entry and find the offset of its vectors.

    Reads the header only. Raises ``StoreError`` if the file is missing or disagrees.
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
        # HDF5 allocates nothing, hence no offset, for a shard of which every sequence failed.
        offset = vectors.id.get_offset() if shard.rows else 0
    if offset is None:
        raise StoreError(f"{path}: expected vectors in one piece, found chunks; embed again")
    return ShardFile(path, offset)


def shard_identity(file: h5py.File) -> tuple[Identity, str]:
    """Read identity and job id of an open shard; ``StoreError`` if it has none."""
    try:
        identity = parse_identity(json.loads(str(file.attrs["identity"])))
        return identity, str(file.attrs["job"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{file.filename}: not a shard ({error}); move it away") from error


def map_vectors(file: ShardFile, shape: tuple[int, int], logical: str) -> np.ndarray:
    """Memory-map vectors of a shape, read-only, in the dtype named ``logical``.

    Raises ``StoreError`` if the file cannot be mapped, for example because it is truncated.
    """
    if not shape[0]:
        return np.empty(shape, LOGICAL[logical])
    try:
        flat = np.memmap(file.path, PHYSICAL[logical], mode="r", offset=file.offset, shape=shape)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file.path}: cannot be mapped ({error}); run micro-rm verify") from error
    return flat.view(np.ndarray).view(LOGICAL[logical])
