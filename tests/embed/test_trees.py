"""A bin of trees holds every distinct prefix once, and each sequence can be read back from it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.trees import (
    PAD_BRANCH_TOKENS,
    Layout,
    QueryRun,
    common_prefix_length,
    lay_out,
    lexicographic_order,
    pad_layout,
)
from micro_rm.tests.embed.token_sequences import TOKENS, Ids, arrays, bushes

FORESTS = bushes(longest=8, most=30)


def spread(pieces: tuple[tuple[int, int], ...]) -> list[int]:
    return [index for start, stop in pieces for index in range(start, stop)]


def visible(layout: Layout, token: int) -> list[int]:
    return np.flatnonzero((np.arange(len(layout.ends)) <= token) & (token < layout.ends)).tolist()


@settings(max_examples=100, deadline=None)
@given(FORESTS)
def test_every_sequence_is_read_back_along_its_branch(sequences: list[Ids]) -> None:
    """One token per distinct prefix, which sees its ancestors and itself by its ``ends``."""
    layout = lay_out(arrays(sequences))
    prefixes = {ids[:stop] for ids in sequences for stop in range(1, len(ids) + 1)}
    assert len(layout.token_ids) == len(layout.positions) == len(layout.ends) == len(prefixes)
    seen = set()
    for index, (ids, branch) in enumerate(zip(sequences, layout.branches, strict=True)):
        walked = spread(branch.key_ranges)
        assert (branch.start, branch.stop, branch.keys) == (index, index + 1, len(ids))
        assert tuple(layout.token_ids[walked].tolist()) == ids
        assert layout.positions[walked].tolist() == list(range(len(ids)))
        assert layout.readouts[index] == walked[-1]
        for size, token in enumerate(walked, start=1):
            assert visible(layout, token) == walked[:size]
        seen.update(walked)
    assert seen == set(range(len(layout.token_ids)))


@settings(max_examples=100, deadline=None)
@given(FORESTS)
def test_runs_cover_all_tokens_once_and_their_keys_end_with_their_queries(
    sequences: list[Ids],
) -> None:
    """Pieces are apart, so that a branch has as few as possible."""
    layout = lay_out(arrays(sequences))
    bounds = [0, *(run.stop for run in layout.runs)]
    assert [(run.start, run.stop) for run in layout.runs] == list(pairwise(bounds))
    assert bounds[-1] == len(layout.token_ids)
    for run in layout.runs:
        keys = spread(run.key_ranges)
        assert run.queries > 0 and len(keys) == run.keys
        assert keys[-run.queries :] == list(range(run.start, run.stop))
        for query in range(run.queries):
            hidden = run.queries - 1 - query
            assert visible(layout, run.start + query) == keys[: len(keys) - hidden]
    for run in (*layout.runs, *layout.branches):
        assert all(start < stop for start, stop in run.key_ranges)
        assert all(one[1] < other[0] for one, other in pairwise(run.key_ranges))


@settings(max_examples=60, deadline=None)
@given(FORESTS, st.randoms(use_true_random=False))
def test_a_layout_does_not_depend_on_the_order_of_its_input(
    sequences: list[Ids], random: Random
) -> None:
    order = random.sample(range(len(sequences)), len(sequences))
    one, other = lay_out(arrays(sequences)), lay_out(arrays([sequences[n] for n in order]))
    for name in ("token_ids", "positions", "ends"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert one.runs == other.runs
    assert one.readouts[order].tolist() == other.readouts.tolist()
    assert [one.branches[n].key_ranges for n in order] == [run.key_ranges for run in other.branches]


@settings(max_examples=60, deadline=None)
@given(FORESTS, st.integers(0, 3 * PAD_BRANCH_TOKENS))
def test_filling_adds_short_branches_that_nobody_reads(sequences: list[Ids], size: int) -> None:
    layout = lay_out(arrays(sequences))
    used = len(layout.token_ids)
    full = pad_layout(layout, size)
    assert len(full.token_ids) == len(full.positions) == len(full.ends) == max(size, used)
    assert np.array_equal(full.readouts, layout.readouts)
    assert full.branches == layout.branches
    for name in ("token_ids", "positions", "ends"):
        before, after = getattr(layout, name), getattr(full, name)
        assert after.dtype == before.dtype
        assert np.array_equal(after[:used], before)
    added = full.runs[len(layout.runs) :]
    assert full.runs[: len(layout.runs)] == layout.runs
    assert [token for run in added for token in range(run.start, run.stop)] == list(
        range(used, len(full.token_ids))
    )
    for run in added:
        assert 0 < run.queries <= PAD_BRANCH_TOKENS
        assert (full.ends[run.start : run.stop] == run.stop).all()
        assert run.key_ranges == ((run.start, run.stop),)
        for token in (run.start, run.stop - 1):
            assert visible(full, token) == list(range(run.start, token + 1))


def test_a_small_tree_is_laid_out_as_drawn() -> None:
    layout = lay_out(arrays([(5, 6, 8), (9,), (5, 6), (5, 7), (5, 6, 7, 1)]))
    assert layout.token_ids.tolist() == [5, 6, 7, 1, 8, 7, 9]
    assert layout.positions.tolist() == [0, 1, 2, 3, 2, 1, 0]
    assert layout.ends.tolist() == [6, 5, 4, 4, 5, 6, 7]
    assert layout.readouts.tolist() == [4, 6, 1, 5, 3]
    assert layout.runs == (
        QueryRun(0, 4, ((0, 4),)),
        QueryRun(4, 5, ((0, 2), (4, 5))),
        QueryRun(5, 6, ((0, 1), (5, 6))),
        QueryRun(6, 7, ((6, 7),)),
    )


def test_the_arrays_have_the_types_that_they_promise() -> None:
    layout = lay_out(arrays([(1, 2), (1,), (3,)]))
    types = (layout.token_ids, layout.positions, layout.ends, layout.readouts)
    assert [array.dtype for array in types] == [np.int32, np.int64, np.int64, np.int64]


def test_a_chain_of_prefixes_is_one_run() -> None:
    longest = np.arange(2000, dtype=np.int32)
    layout = lay_out([longest[:stop] for stop in range(2000, 0, -1)])
    assert layout.runs == (QueryRun(0, 2000, ((0, 2000),)),)
    assert layout.readouts.tolist() == list(range(1999, -1, -1))


@settings(max_examples=60, deadline=None)
@given(FORESTS)
def test_the_order_is_that_of_the_token_ids(sequences: list[Ids]) -> None:
    order = lexicographic_order(arrays(sequences))
    assert [sequences[index] for index in order] == sorted(sequences)


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS, max_size=6), st.lists(TOKENS, max_size=6))
def test_the_common_prefix_is_counted_token_by_token(one: list[int], other: list[int]) -> None:
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common_prefix_length(np.array(one, np.int32), np.array(other, np.int32)) == expected
