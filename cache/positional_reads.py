"""Rows of shard files by positional reads: straight into the output, with no memory map."""

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

# Bytes that one thread copies at a time. On 2 cores 8 to 64 MiB are equally fast, 1 MiB a fifth
# slower; small slices keep the temporary copy of `FeatureStore.vectors` small.
SLICE_BYTES = 8 << 20
THREADS = min(8, available_cores())
IOV_MAX = 1024  # buffers that one system call takes


@dataclass(frozen=True)
class ShardFile:
    """A file with rows of equal length one behind the other, the first one at ``offset``."""

    path: Path
    offset: int


def in_slices(work: Callable[[int, int], None], rows: int, row_bytes: int) -> None:
    """Call ``work(start, stop)`` for slices of ``range(rows)``; in threads if there are several."""
    step = max(1, SLICE_BYTES // row_bytes)
    starts = range(0, rows, step)
    if len(starts) < 2 or THREADS == 1:
        for start in starts:
            work(start, min(start + step, rows))
        return
    with ThreadPoolExecutor(min(THREADS, len(starts))) as pool:
        # The list hands on the first error.
        list(pool.map(lambda start: work(start, min(start + step, rows)), starts))


def read_rows(
    files: list[ShardFile],
    shards: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill ``out[places[i]]`` with row ``rows[i]`` of file ``shards[i]``.

    All (n,), sorted by shard and row; ``out`` is contiguous. Rows that lie side by side in a file
    are one read, whatever their places. Raises ``StoreError`` for a file that is gone or too short.
    """
    new_shard = np.diff(shards) != 0
    new_run = new_shard | (np.diff(rows) != 1)
    # One buffer per stretch that is contiguous both in the file and in ``out``.
    edges = np.flatnonzero(np.concatenate([[True], new_run | (np.diff(places) != 1), [True]]))
    heads = edges[:-1]
    size = out.shape[1] * out.itemsize
    flat = out.view(np.uint8).data.cast("B")
    spans = zip((places[heads] * size).tolist(), (np.diff(edges) * size).tolist(), strict=True)
    buffers = [flat[start : start + length] for start, length in spans]
    run_of = np.concatenate([[0], np.cumsum(new_run)])[heads]
    for first, last in _stretches(shards[heads]):
        file = files[shards[heads[first]]]
        reads = [
            (file.offset + int(rows[heads[first + a]]) * size, buffers[first + a : first + b])
            for a, b in _stretches(run_of[first:last])
        ]
        _read(file.path, reads)


def _stretches(values: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of every stretch of equal values."""
    cuts = np.flatnonzero(np.diff(values)) + 1
    return list(pairwise([0, *cuts.tolist(), len(values)]))


def _read(path: Path, reads: list[tuple[int, list[memoryview]]]) -> None:
    # Opened for every call: a store may have more shards than a process may have open files.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: missing, though the manifest lists it; run micro-rm verify"
        ) from error
    try:
        if len(reads) > 1 and hasattr(os, "posix_fadvise"):
            # All are asked of the disk before the first is waited for: 4 times faster when cold.
            for position, buffers in reads:
                length = sum(map(len, buffers))
                os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_WILLNEED)
        for position, buffers in reads:
            _fill(descriptor, path, position, buffers)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, path: Path, position: int, buffers: list[memoryview]) -> None:
    while buffers:
        got = os.preadv(descriptor, buffers[:IOV_MAX], position)
        if got == 0:
            raise StoreError(
                f"{path}: expected {sum(map(len, buffers)):,} bytes at {position:,}, the file ends "
                f"at {os.fstat(descriptor).st_size:,}; it was truncated, run micro-rm verify"
            )
        position += got
        done = 0
        while done < len(buffers) and got >= len(buffers[done]):
            got -= len(buffers[done])
            done += 1
        buffers = buffers[done:]
        if got:  # a read may stop anywhere
            buffers[0] = buffers[0][got:]
