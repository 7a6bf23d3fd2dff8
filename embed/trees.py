"""Prefix trees: token sequences in one forward pass, with every shared prefix computed once.

Sorted lexicographically, the sequences of a bin are the branches of a tree in depth-first order.
Each one adds a run of new tokens after the prefix that it shares with its predecessor. A token
attends only to its own branch, and its position is the one that it has when its sequence is
computed separately. A causal model therefore gives every sequence the same final state as a pass
of its own. This module is pure and does not use torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

PAD_BRANCH_TOKENS = 128


@dataclass(frozen=True)
class QueryRun:
    """A contiguous run of queries on one branch, and the keys that they attend to.

    ``start:stop`` index the queries that attention gets: all tokens of a bin for ``Layout.runs``,
    its read-outs for ``Layout.branches``. ``key_ranges`` are the token ranges on the path from the
    root through the last query, so the keys end with the queries themselves. Within a run attention
    is causal: query ``i`` of ``n`` sees all but the last ``n - 1 - i`` keys.
    """

    start: int
    stop: int
    key_ranges: tuple[tuple[int, int], ...]

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.stop - self.start

    @property
    def keys(self) -> int:
        """Number of keys visible to the last query."""
        return sum(stop - start for start, stop in self.key_ranges)


@dataclass(frozen=True)
class Layout:
    """The tree of n sequences, laid out as T tokens in depth-first order.

    Attributes:
        token_ids: (T,) int32.
        positions: (T,) int64, the position of each token within its sequence.
        ends: (T,) int64. Token ``i`` sees token ``j`` exactly if ``j <= i < ends[j]``.
        runs: Queries and keys of all T tokens, in order and without gaps.
        readouts: (n,) int64, the index of each sequence's last token.
        branches: One run per sequence, whose only query is its read-out.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    runs: tuple[QueryRun, ...]
    readouts: np.ndarray
    branches: tuple[QueryRun, ...]


def lexicographic_order(sequences: Sequence[np.ndarray]) -> list[int]:
    """Indices that sort non-negative int32 sequences; a prefix precedes its extensions.

    Example:
        >>> lexicographic_order([np.array([2]), np.array([1, 3]), np.array([1])])
        [2, 1, 0]
    """
    # Big-endian bytes of non-negative integers compare like the integers themselves.
    sort_keys = [ids.astype(">i4").tobytes() for ids in sequences]
    return sorted(range(len(sequences)), key=sort_keys.__getitem__)


def common_prefix_length(one: np.ndarray, other: np.ndarray) -> int:
    """Number of leading tokens that two sequences have in common.

    Example:
        >>> common_prefix_length(np.array([5, 6, 7]), np.array([5, 6, 8, 9]))
        2
    """
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size


def lay_out(sequences: Sequence[np.ndarray]) -> Layout:
    """Lay out distinct, non-empty sequences as a tree with one token per distinct prefix.

    Args:
        sequences: n arrays of token ids, int32, in any order.

    Returns:
        The layout; its ``readouts`` and ``branches`` follow the order of ``sequences``.

    Example:
        >>> layout = lay_out([np.array([7, 8, 9]), np.array([7, 8, 5])])
        >>> layout.token_ids.tolist(), layout.positions.tolist(), layout.ends.tolist()
        ([7, 8, 5, 9], [0, 1, 2, 2], [4, 4, 3, 4])
        >>> layout.readouts.tolist()
        [3, 2]
    """
    runs: list[QueryRun] = []
    branches: dict[int, QueryRun] = {}
    new_ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    # Token ranges from the root to the last token of the current sequence.
    path: list[tuple[int, int]] = []
    ends = np.zeros(sum(len(ids) for ids in sequences), np.int64)
    size = 0  # tokens laid out so far
    previous = np.empty(0, np.int32)
    for index in lexicographic_order(sequences):
        ids = sequences[index]
        # In sorted order the longest prefix that is already in the tree is the predecessor's.
        shared = common_prefix_length(previous, ids)
        path, closed = _split_path(path, shared)
        # The predecessor's tokens beyond that prefix are on no later branch: no token laid out
        # from here on sees them.
        for start, stop in closed:
            ends[start:stop] = size
        stop = size + len(ids) - shared
        if path and path[-1][1] == size and runs[-1].stop == size:
            # The predecessor is a prefix of this sequence, so its run continues.
            path[-1] = (path[-1][0], stop)
            runs[-1] = QueryRun(runs[-1].start, stop, tuple(path))
        else:
            path.append((size, stop))
            runs.append(QueryRun(size, stop, tuple(path)))
        # Queries of branches are numbered by sequence, since only read-outs are passed to them.
        branches[index] = QueryRun(index, index + 1, tuple(path))
        new_ids.append(ids[shared:])
        positions.append(np.arange(shared, len(ids)))
        size, previous = stop, ids
    # The last branch stays visible up to the end of the bin.
    for start, stop in path:
        ends[start:stop] = size
    return Layout(
        token_ids=np.concatenate(new_ids),
        positions=np.concatenate(positions),
        ends=ends[:size],
        runs=tuple(runs),
        readouts=np.array(
            [branches[index].key_ranges[-1][1] - 1 for index in range(len(sequences))]
        ),
        branches=tuple(branches[index] for index in range(len(sequences))),
    )


def pad_layout(layout: Layout, num_tokens: int) -> Layout:
    """Pad a layout to ``num_tokens`` with branches that no read-out uses.

    The padding consists of short branches, because attention over a branch costs the square of its
    length. A layout that has that many tokens already is returned as it is.
    """
    used = len(layout.token_ids)
    missing = num_tokens - used
    if missing <= 0:
        return layout
    zeros = np.zeros(missing, np.int64)
    indices = np.arange(used, num_tokens)
    # A padding token sees the tokens of its own short branch only.
    branch_starts = indices - (indices - used) % PAD_BRANCH_TOKENS
    ends = np.minimum(branch_starts + PAD_BRANCH_TOKENS, num_tokens)
    stops = (
        (start, min(start + PAD_BRANCH_TOKENS, num_tokens))
        for start in range(used, num_tokens, PAD_BRANCH_TOKENS)
    )
    runs = (QueryRun(start, stop, ((start, stop),)) for start, stop in stops)
    return replace(
        layout,
        token_ids=np.concatenate([layout.token_ids, zeros.astype(layout.token_ids.dtype)]),
        positions=np.concatenate([layout.positions, zeros]),
        ends=np.concatenate([layout.ends, ends]),
        runs=(*layout.runs, *runs),
    )


def _split_path(
    path: list[tuple[int, int]], length: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Split a path after its first ``length`` tokens; both parts are lists of token ranges."""
    kept: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for start, stop in path:
        middle = min(stop, start + length)
        length -= middle - start
        if middle > start:
            kept.append((start, middle))
        if stop > middle:
            rest.append((middle, stop))
    return kept, rest
