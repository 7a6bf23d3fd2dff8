"""Pack sequences into bins of a bounded number of tokens, one forward pass per bin.

This module is pure and does not use torch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .trees import common_prefix_length, lexicographic_order


@dataclass(frozen=True)
class Bin:
    """One forward pass: the indices of its sequences, and the tokens computed without padding."""

    members: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class _Item:
    """Sequences that stay together, as ranges of ranks in lexicographic order.

    ``tokens`` is the size of their tree, the prefix shared with other items included.
    """

    tokens: int
    ranges: tuple[tuple[int, int], ...]


def pack_trees(sequences: Sequence[np.ndarray], bin_tokens: int) -> list[Bin]:
    """Pack distinct sequences into bins that are computed as prefix trees, largest bin first.

    A subtree that fits into a bin stays whole. The children of a larger one are packed, best fit
    decreasing, into bins that each repeat their common prefix; a bin with capacity left is packed
    again one level up, where the common prefix is shorter.

    Args:
        sequences: Arrays of token ids, int32.
        bin_tokens: Capacity of a bin. Two cases exceed it: a longer sequence gets a bin of its
            own, and below a prefix of more than half a bin the capacity is twice the prefix, so
            that up to half of the tokens are new ones.
    """
    if not sequences:
        return []
    order = lexicographic_order(sequences)
    lengths = np.array([len(sequences[index]) for index in order])
    # shared[r]: tokens that the sequence of rank r shares with that of rank r - 1.
    shared = np.zeros(len(order), np.int64)
    for rank in range(1, len(order)):
        shared[rank] = common_prefix_length(sequences[order[rank - 1]], sequences[order[rank]])
    # Prefix sums of the tokens that each sequence adds to the tree of its predecessors.
    added = np.concatenate([[0], np.cumsum(lengths - shared)])
    # A node is a range of ranks; its depth is the length of the prefix common to all of them.
    nodes = [(0, len(order))]
    parents, depths = [-1], [0]
    items: list[list[_Item]] = []
    # Top down: ``nodes`` grows during the iteration, so parents precede their children.
    for node, (start, stop) in enumerate(nodes):
        items.append([])
        # The first sequence counts in full, the others with what they add.
        tokens = int(lengths[start] + added[stop] - added[start + 1])
        if tokens <= bin_tokens or stop - start == 1:
            items[node].append(_Item(tokens, ((start, stop),)))
            continue
        # Too large: cut wherever neighbours share no more than the common prefix of the node.
        inner = shared[start + 1 : stop]
        depths[node] = int(inner.min())
        cuts = [start, *(start + 1 + np.flatnonzero(inner == inner.min())).tolist(), stop]
        for child in pairwise(cuts):
            nodes.append(child)
            parents.append(node)
            depths.append(0)
    # Bottom up: the bins of a node become items of its parent, where they may be merged further.
    for node in range(len(nodes) - 1, 0, -1):
        items[parents[node]] += _best_fit(items[node], depths[node], bin_tokens)
    return [
        Bin(
            tuple(order[rank] for start, stop in item.ranges for rank in range(start, stop)),
            item.tokens,
        )
        for item in _best_fit(items[0], depths[0], bin_tokens)
    ]


def pack_rows(sequences: Sequence[np.ndarray], bin_tokens: int, *, causal: bool) -> list[Bin]:
    """Pack distinct sequences of similar length into bins of right-padded rows, longest first.

    Args:
        sequences: Arrays of token ids, int32.
        bin_tokens: Most tokens of a bin, padding included (rows times the longest row); a single
            longer row gets a bin of its own. A bin that is more than half full takes no shorter
            row, which would need padding.
        causal: Whether a sequence that is a prefix of another one is read from the row of the
            longer one, as the states of a causal model allow.
    """
    order = lexicographic_order(sequences)
    # A row is a list of sequences: the first fills it, the others are prefixes of it.
    rows: list[list[int]] = []
    # Backwards, because in lexicographic order a prefix directly precedes its extensions.
    for rank in range(len(order) - 1, -1, -1):
        index = order[rank]
        longer = sequences[order[rank + 1]] if rank + 1 < len(order) else sequences[index][:0]
        if causal and common_prefix_length(sequences[index], longer) == len(sequences[index]):
            rows[-1].append(index)
        else:
            rows.append([index])
    rows.sort(key=lambda row: (-len(sequences[row[0]]), sequences[row[0]].tobytes()))
    bins: list[list[list[int]]] = []
    for row in rows:
        longest = len(sequences[bins[-1][0][0]]) if bins else 0
        fits = bins and (len(bins[-1]) + 1) * longest <= bin_tokens
        shorter = len(sequences[row[0]]) < longest
        if fits and not (shorter and 2 * len(bins[-1]) * longest > bin_tokens):
            bins[-1].append(row)
        else:
            bins.append([row])
    return [
        Bin(
            tuple(index for row in rows for index in row),
            sum(len(sequences[row[0]]) for row in rows),
        )
        for rows in bins
    ]


def _best_fit(items: list[_Item], depth: int, bin_tokens: int) -> list[_Item]:
    """Merge items with a common prefix of ``depth`` tokens into bins, by best fit decreasing.

    A bin holds the prefix once. Returns the bins as items, largest first.
    """
    if len(items) < 2:
        return items
    # Below a long prefix the capacity grows, so that at least half of it is left for new tokens.
    capacity = max(bin_tokens, 2 * depth)
    free: list[tuple[int, int]] = []  # (free tokens, index of the bin), sorted
    bins: list[list[_Item]] = []
    for item in sorted(items, key=lambda item: (-item.tokens, item.ranges)):
        extra = item.tokens - depth
        # The fullest bin that still holds the item; -1 sorts before every index.
        slot = bisect_left(free, (extra, -1))
        if slot < len(free):
            left, index = free.pop(slot)
            bins[index].append(item)
            insort(free, (left - extra, index))
        else:
            bins.append([item])
            insort(free, (capacity - item.tokens, len(bins) - 1))
    merged = [
        _Item(
            depth + sum(item.tokens - depth for item in members),
            tuple(sorted(ranks for item in members for ranks in item.ranges)),
        )
        for members in bins
    ]
    return sorted(merged, key=lambda item: (-item.tokens, item.ranges))
