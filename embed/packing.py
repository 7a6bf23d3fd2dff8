"""Sequences to bins of a bounded number of tokens, one bin per forward pass (pure, no torch)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .trees import lexicographic, shared_length


@dataclass(frozen=True)
class Bin:
    """Members of one forward pass, as indices, and the tokens that it computes.

    Padding does not count.
    """

    members: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class _Unit:
    """Neighbours in the tree that stay together; ``tokens`` include the prefix that they share."""

    tokens: int
    ranges: tuple[tuple[int, int], ...]


def pack_trees(sequences: Sequence[np.ndarray], bin_tokens: int) -> list[Bin]:
    """Bins of distinct sequences that are computed as trees, largest first.

    Whatever fits together under one prefix stays together. What does not is packed, best fit
    decreasing, into bins that repeat that prefix; bins with room left go on to share the shorter
    prefix above. Behind a prefix of more than half a bin a bin may grow to twice the prefix, so
    that up to half of its tokens are new; a longer sequence has a bin of its own.
    """
    if not sequences:
        return []
    order = lexicographic(sequences)
    lengths = np.array([len(sequences[place]) for place in order])
    shared = np.zeros(len(order), np.int64)
    for rank in range(1, len(order)):
        shared[rank] = shared_length(sequences[order[rank - 1]], sequences[order[rank]])
    added = np.concatenate([[0], np.cumsum(lengths - shared)])
    nodes = [(0, len(order))]
    parents, depths = [-1], [0]
    units: list[list[_Unit]] = []
    for place, (start, stop) in enumerate(nodes):  # grows while it is read: parents first
        units.append([])
        tokens = int(lengths[start] + added[stop] - added[start + 1])
        if tokens <= bin_tokens or stop - start == 1:
            units[place].append(_Unit(tokens, ((start, stop),)))
            continue
        inner = shared[start + 1 : stop]
        depths[place] = int(inner.min())
        cuts = [start, *(start + 1 + np.flatnonzero(inner == inner.min())).tolist(), stop]
        for child in pairwise(cuts):
            nodes.append(child)
            parents.append(place)
            depths.append(0)
    for place in range(len(nodes) - 1, 0, -1):  # children first
        units[parents[place]] += _best_fit(units[place], depths[place], bin_tokens)
    return [
        Bin(tuple(order[rank] for first, last in unit.ranges for rank in range(first, last)), size)
        for unit in _best_fit(units[0], depths[0], bin_tokens)
        for size in (unit.tokens,)
    ]


def pack_rows(sequences: Sequence[np.ndarray], bin_tokens: int, *, causal: bool) -> list[Bin]:
    """Bins of sequences of similar length for right-padded rows, longest first.

    Rows times their longest length is at most ``bin_tokens``, except for a single longer row. A
    bin that is more than half full takes no shorter row, which would have to be padded. With a
    causal model a sequence that is a prefix of another one is read from that one's row.
    """
    order = lexicographic(sequences)
    rows: list[list[int]] = []
    for rank in range(len(order) - 1, -1, -1):
        place = order[rank]
        longer = sequences[order[rank + 1]] if rank + 1 < len(order) else sequences[place][:0]
        if causal and shared_length(sequences[place], longer) == len(sequences[place]):
            rows[-1].append(place)
        else:
            rows.append([place])
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
            tuple(place for row in rows for place in row),
            sum(len(sequences[row[0]]) for row in rows),
        )
        for rows in bins
    ]


def _best_fit(units: list[_Unit], depth: int, bin_tokens: int) -> list[_Unit]:
    """Units that share ``depth`` tokens, in as few bins as best fit decreasing finds."""
    if len(units) < 2:
        return units
    limit = max(bin_tokens, 2 * depth)
    rooms: list[tuple[int, int]] = []  # (room left, number of the bin), sorted
    bins: list[list[_Unit]] = []
    for unit in sorted(units, key=lambda unit: (-unit.tokens, unit.ranges)):
        extra = unit.tokens - depth
        at = bisect_left(rooms, (extra, -1))
        if at < len(rooms):
            room, number = rooms.pop(at)
            bins[number].append(unit)
            insort(rooms, (room - extra, number))
        else:
            bins.append([unit])
            insort(rooms, (limit - unit.tokens, len(bins) - 1))
    made = [
        _Unit(
            depth + sum(unit.tokens - depth for unit in members),
            tuple(sorted(part for unit in members for part in unit.ranges)),
        )
        for members in bins
    ]
    return sorted(made, key=lambda unit: (-unit.tokens, unit.ranges))
