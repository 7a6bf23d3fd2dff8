"""Read rows of shard files with ``preadv``, straight into the output and without a memory map."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..common.cores import available_cores
from .schema import StoreError

# Bytes per unit of work of a thread. On 2 cores 8 to 64 MiB are equally fast and 1 MiB a fifth
# slower; the smallest of these keeps the temporary copy in `FeatureStore.vectors` small.
SLICE_BYTES = 8 << 20
THREADS = min(8, available_cores())
IOV_MAX = 1024  # most buffers that one preadv call accepts


@dataclass(frozen=True)
class ShardFile:
    """A file whose rows of equal size are contiguous from byte ``offset`` on."""

    path: Path
    offset: int


def in_slices(work: Callable[[int, int], None], rows: int, row_bytes: int) -> None:
    """Call ``work(start, stop)`` on slices of ``range(rows)``, in threads if there are several.

    A slice covers ``SLICE_BYTES`` at ``row_bytes`` bytes per row. The first exception of ``work``
    is raised.
    """
    step = max(1, SLICE_BYTES // row_bytes)
    starts = range(0, rows, step)
    if len(starts) < 2 or THREADS == 1:
        for start in starts:
            work(start, min(start + step, rows))
        return
    with ThreadPoolExecutor(min(THREADS, len(starts))) as pool:
        # ``list`` drains the iterator, which raises the first error.
        list(pool.map(lambda start: work(start, min(start + step, rows)), starts))


def read_rows(
    files: list[ShardFile],
    shards: np.ndarray,
    rows: np.ndarray,
    slots: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill ``out[slots[i]]`` with row ``rows[i]`` of file ``files[shards[i]]``.

    Rows that are adjacent in a file are fetched by one read, wherever they go in ``out``.

    Args:
        files: The shard files.
        shards: (n,) index of the file of each row, ascending.
        rows: (n,) row within its file, ascending within a file.
        slots: (n,) row of ``out`` to fill.
        out: Contiguous (m, D) array.

    Raises:
        StoreError: A file is missing or shorter than the manifest promises.
    """
    # A run is a maximal stretch of adjacent rows of one file: one system call.
    new_shard = np.diff(shards) != 0
    new_run = new_shard | (np.diff(rows) != 1)
    # A run scatters into several buffers wherever the slots jump: each buffer is contiguous both in
    # the file and in ``out``. ``starts`` holds the position of each buffer's first row.
    edges = np.flatnonzero(np.concatenate([[True], new_run | (np.diff(slots) != 1), [True]]))
    starts = edges[:-1]
    row_bytes = out.shape[1] * out.itemsize
    out_bytes = out.view(np.uint8).data.cast("B")
    offsets, lengths = slots[starts] * row_bytes, np.diff(edges) * row_bytes
    buffers = [
        out_bytes[offset : offset + length]
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True)
    ]
    # Group the buffers by file, so that each is opened once, then by run within the file.
    run_of_buffer = np.concatenate([[0], np.cumsum(new_run)])[starts]
    for first, last in _equal_spans(shards[starts]):
        file = files[shards[starts[first]]]
        reads = [
            (file.offset + int(rows[starts[first + a]]) * row_bytes, buffers[first + a : first + b])
            for a, b in _equal_spans(run_of_buffer[first:last])
        ]
        _read(file.path, reads)


def _equal_spans(values: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of every maximal span of equal neighbours.

    >>> _equal_spans(np.array([7, 7, 2, 7]))
    [(0, 2), (2, 3), (3, 4)]
    """
    cuts = np.flatnonzero(np.diff(values)) + 1
    return list(pairwise([0, *cuts.tolist(), len(values)]))


def _read(path: Path, reads: list[tuple[int, list[memoryview]]]) -> None:
    """Carry out the reads of one file, each a position in bytes and the buffers to fill."""
    # Opened anew each time: a store may have more shards than a process may have open files.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: missing, though the manifest lists it; run micro-rm verify"
        ) from error
    try:
        if len(reads) > 1 and hasattr(os, "posix_fadvise"):
            # Request all ranges before waiting for the first: 4 times faster on a cold page cache.
            for position, buffers in reads:
                length = sum(map(len, buffers))
                os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_WILLNEED)
        for position, buffers in reads:
            _fill(descriptor, path, position, buffers)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, path: Path, position: int, buffers: list[memoryview]) -> None:
    """Fill the buffers one after another from ``position`` on, in as many calls as it takes."""
    while buffers:
        count = os.preadv(descriptor, buffers[:IOV_MAX], position)
        if count == 0:
            raise StoreError(
                f"{path}: expected {sum(map(len, buffers)):,} bytes at {position:,}, the file ends "
                f"at {os.fstat(descriptor).st_size:,}; it was truncated, run micro-rm verify"
            )
        position += count
        full = 0
        while full < len(buffers) and count >= len(buffers[full]):
            count -= len(buffers[full])
            full += 1
        buffers = buffers[full:]
        if count:  # a read may stop short, also within a buffer
            buffers[0] = buffers[0][count:]
