"""Many token sequences as one forward pass: every shared prefix stands there once (pure, no torch).

Sorted, the sequences of a bin are the branches of a tree in depth-first order. Each one adds a run
of new tokens behind the prefix that it shares with the one before it. A token sees the tokens on
its own branch and nothing else, at the positions that it has when its sequence stands alone, so a
causal model gives every sequence the state that a pass of its own would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

FILLING = 128  # tokens


@dataclass(frozen=True)
class Run:
    """Queries ``start:stop`` of a bin, and the ranges of keys that the last of them sees.

    The keys end with the queries themselves: query ``i`` of ``n`` sees all but the last
    ``n - 1 - i`` keys.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, int], ...]

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.stop - self.start

    @property
    def keys(self) -> int:
        """Number of keys that the last query sees."""
        return sum(stop - start for start, stop in self.pieces)


@dataclass(frozen=True)
class Layout:
    """T tokens that stand for n sequences.

    ``token_ids`` (T,) int32, ``positions`` (T,) int64. ``ends`` (T,) int64: token ``j`` is on the
    branch of token ``i`` exactly if ``j <= i < ends[j]``. ``readouts`` (n,) int64 are the rows of
    the last tokens, ``branches`` one run per sequence that asks for its last token alone.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    runs: tuple[Run, ...]
    readouts: np.ndarray
    branches: tuple[Run, ...]


def lexicographic(sequences: Sequence[np.ndarray]) -> list[int]:
    """Indices of the sequences in the order of their token ids, a prefix before its extensions."""
    spelled = [ids.astype(">i4").tobytes() for ids in sequences]
    return sorted(range(len(sequences)), key=spelled.__getitem__)


def shared_length(one: np.ndarray, other: np.ndarray) -> int:
    """Number of leading tokens that two sequences share."""
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size


def lay_out(sequences: Sequence[np.ndarray]) -> Layout:
    """The tree of distinct, non-empty sequences; its size is the number of distinct prefixes."""
    runs: list[Run] = []
    branches: dict[int, Run] = {}
    fresh: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    path: list[tuple[int, int]] = []
    ends = np.zeros(sum(len(ids) for ids in sequences), np.int64)
    size = 0
    before = np.empty(0, np.int32)
    for place in lexicographic(sequences):
        ids = sequences[place]
        shared = shared_length(before, ids)
        path, left = _cut(path, shared)
        for start, stop in left:
            ends[start:stop] = size
        stop = size + len(ids) - shared
        if path and path[-1][1] == size and runs[-1].stop == size:
            # The sequence before is a prefix of this one: the same run goes on.
            path[-1] = (path[-1][0], stop)
            runs[-1] = Run(runs[-1].start, stop, tuple(path))
        else:
            path.append((size, stop))
            runs.append(Run(size, stop, tuple(path)))
        branches[place] = Run(place, place + 1, tuple(path))
        fresh.append(ids[shared:])
        positions.append(np.arange(shared, len(ids)))
        size, before = stop, ids
    for start, stop in path:
        ends[start:stop] = size
    return Layout(
        token_ids=np.concatenate(fresh),
        positions=np.concatenate(positions),
        ends=ends[:size],
        runs=tuple(runs),
        readouts=np.array([branches[place].pieces[-1][1] - 1 for place in range(len(sequences))]),
        branches=tuple(branches[place] for place in range(len(sequences))),
    )


def filled(layout: Layout, size: int) -> Layout:
    """The layout with short branches behind it that nobody reads, up to ``size`` tokens.

    Short, because attention over a branch costs the square of its length.
    """
    used = len(layout.token_ids)
    missing = size - used
    if missing <= 0:
        return layout
    nothing = np.zeros(missing, np.int64)
    places = np.arange(used, size)
    ends = np.minimum(places - (places - used) % FILLING + FILLING, size)
    runs = (
        Run(start, min(start + FILLING, size), ((start, min(start + FILLING, size)),))
        for start in range(used, size, FILLING)
    )
    return replace(
        layout,
        token_ids=np.concatenate([layout.token_ids, nothing.astype(layout.token_ids.dtype)]),
        positions=np.concatenate([layout.positions, nothing]),
        ends=np.concatenate([layout.ends, ends]),
        runs=(*layout.runs, *runs),
    )


def _cut(
    path: list[tuple[int, int]], length: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The first ``length`` tokens of a path, and what is left of it, both as ranges."""
    kept: list[tuple[int, int]] = []
    left: list[tuple[int, int]] = []
    for start, stop in path:
        middle = min(stop, start + length)
        length -= middle - start
        if middle > start:
            kept.append((start, middle))
        if stop > middle:
            left.append((middle, stop))
    return kept, left
