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

Ids = tuple[int, ...]
# Few distinct ids make prefixes frequent; large ones span several bytes.
TOKENS = st.sampled_from([0, 1, 255, 256, 128_256])
BUSHES = st.lists(st.lists(TOKENS, min_size=1, max_size=8).map(tuple), min_size=1, max_size=30)


@st.composite
def distinct_sequences(draw: st.DrawFn) -> list[Ids]:
    """Random sequences, some with their own prefixes, prefix chains and single tokens."""
    sequences = draw(BUSHES)
    for base in draw(st.lists(st.sampled_from(sequences), max_size=3)):
        sequences += [base[:stop] for stop in range(1, len(base))]
    sequences = list(dict.fromkeys(sequences))
    draw(st.randoms(use_true_random=False)).shuffle(sequences)
    return sequences


def arrays(sequences: list[Ids]) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in sequences]


def spread(pieces: tuple[tuple[int, int], ...]) -> list[int]:
    return [index for start, stop in pieces for index in range(start, stop)]


def visible(layout: Layout, token: int) -> list[int]:
    return np.flatnonzero((np.arange(len(layout.ends)) <= token) & (token < layout.ends)).tolist()


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_a_layout_has_one_token_per_distinct_prefix(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    prefixes = {ids[:stop] for ids in sequences for stop in range(1, len(ids) + 1)}
    assert len(layout.token_ids) == len(layout.positions) == len(layout.ends) == len(prefixes)


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_every_sequence_is_read_back_along_its_branch(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    assert len(layout.branches) == len(sequences)
    for index, (ids, branch) in enumerate(zip(sequences, layout.branches, strict=True)):
        walked = spread(branch.key_ranges)
        assert (branch.start, branch.stop, branch.keys) == (index, index + 1, len(ids))
        assert tuple(layout.token_ids[walked].tolist()) == ids
        assert layout.positions[walked].tolist() == list(range(len(ids)))


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_a_token_sees_its_ancestors_and_itself_by_its_ends(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    seen = set()
    for branch in layout.branches:
        walked = spread(branch.key_ranges)
        for size, token in enumerate(walked, start=1):
            assert visible(layout, token) == walked[:size]
        seen.update(walked)
    assert seen == set(range(len(layout.token_ids)))


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_runs_cover_all_tokens_once_and_in_order(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    bounds = [0, *(run.stop for run in layout.runs)]
    assert [(run.start, run.stop) for run in layout.runs] == list(pairwise(bounds))
    assert bounds[-1] == len(layout.token_ids)
    assert all(run.queries > 0 for run in layout.runs)


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_the_keys_of_a_run_end_with_its_queries(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    for run in layout.runs:
        keys = spread(run.key_ranges)
        assert keys[-run.queries :] == list(range(run.start, run.stop))
        assert len(keys) == run.keys
        for query in range(run.queries):
            hidden = run.queries - 1 - query
            assert visible(layout, run.start + query) == keys[: len(keys) - hidden]


@settings(max_examples=100, deadline=None)
@given(distinct_sequences())
def test_pieces_are_apart_so_that_a_branch_has_as_few_as_possible(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    for run in (*layout.runs, *layout.branches):
        assert all(start < stop for start, stop in run.key_ranges)
        assert all(one[1] < other[0] for one, other in pairwise(run.key_ranges))


@settings(max_examples=80, deadline=None)
@given(distinct_sequences())
def test_read_outs_are_the_last_tokens_of_the_sequences(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    assert layout.token_ids[layout.readouts].tolist() == [ids[-1] for ids in sequences]
    assert layout.positions[layout.readouts].tolist() == [len(ids) - 1 for ids in sequences]
    assert layout.readouts.tolist() == [branch.key_ranges[-1][1] - 1 for branch in layout.branches]


@settings(max_examples=60, deadline=None)
@given(distinct_sequences(), st.randoms(use_true_random=False))
def test_a_layout_does_not_depend_on_the_order_of_its_input(
    sequences: list[Ids], random: Random
) -> None:
    order = list(range(len(sequences)))
    random.shuffle(order)
    one, other = lay_out(arrays(sequences)), lay_out(arrays([sequences[n] for n in order]))
    for name in ("token_ids", "positions", "ends"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert one.runs == other.runs
    assert one.readouts[order].tolist() == other.readouts.tolist()
    assert [one.branches[n].key_ranges for n in order] == [run.key_ranges for run in other.branches]


@settings(max_examples=60, deadline=None)
@given(distinct_sequences(), st.integers(0, 3 * PAD_BRANCH_TOKENS))
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
@given(distinct_sequences())
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
