"""Plans are pure functions: their properties hold for any set of token sequences."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.schema import sequence_key
from micro_rm.embed.planning import Pass, plan_batches, plan_passes, without

# Few distinct ids make prefixes frequent; large ones span several bytes.
TOKENS = st.sampled_from([0, 1, 2, 255, 256, 128_256])
SEQUENCES = st.lists(
    st.lists(TOKENS, min_size=1, max_size=10).map(tuple), min_size=1, max_size=40, unique=True
)


def keyed(sequences: list[tuple[int, ...]]) -> dict[bytes, np.ndarray]:
    return {sequence_key(ids): np.array(ids, np.int32) for ids in sequences}


def plain(passes: list[Pass]) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[bytes, ...]]]:
    return [(tuple(item.token_ids.tolist()), item.readouts, item.keys) for item in passes]


@settings(max_examples=150, deadline=None)
@given(SEQUENCES, st.booleans())
def test_every_sequence_is_read_out_once_at_its_last_token(
    sequences: list[tuple[int, ...]], share: bool
) -> None:
    wanted = keyed(sequences)
    passes = plan_passes(wanted, share_prefixes=share)
    assert Counter(key for item in passes for key in item.keys) == Counter(wanted.keys())
    for item in passes:
        for place, key in zip(item.readouts, item.keys, strict=True):
            assert place == len(wanted[key]) - 1
            assert item.token_ids[: place + 1].tolist() == wanted[key].tolist()


@settings(max_examples=150, deadline=None)
@given(SEQUENCES)
def test_a_prefix_of_another_sequence_gets_no_pass_of_its_own(
    sequences: list[tuple[int, ...]],
) -> None:
    passes = plan_passes(keyed(sequences), share_prefixes=True)
    ids = [tuple(item.token_ids.tolist()) for item in passes]
    expected = {
        one for one in sequences if not any(two != one and two[: len(one)] == one for two in ids)
    }
    assert set(ids) == expected
    assert len(ids) == len(expected)


@settings(max_examples=50, deadline=None)
@given(SEQUENCES)
def test_without_sharing_every_sequence_has_its_own_pass(sequences: list[tuple[int, ...]]) -> None:
    passes = plan_passes(keyed(sequences), share_prefixes=False)
    assert sorted(tuple(item.token_ids.tolist()) for item in passes) == sorted(sequences)
    assert all(len(item.keys) == 1 for item in passes)


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.integers(1, 40), st.booleans(), st.randoms(use_true_random=False))
def test_plans_do_not_depend_on_the_order_of_their_input(
    sequences: list[tuple[int, ...]], budget: int, share: bool, random: Random
) -> None:
    shuffled = list(sequences)
    random.shuffle(shuffled)
    first = plan_passes(keyed(sequences), share_prefixes=share)
    second = plan_passes(keyed(shuffled), share_prefixes=share)
    assert plain(first) == plain(second)
    random.shuffle(second)
    batches = plan_batches(first, budget)
    assert [plain(batch) for batch in batches] == [
        plain(batch) for batch in plan_batches(second, budget)
    ]


@settings(max_examples=150, deadline=None)
@given(SEQUENCES, st.integers(1, 60))
def test_batches_hold_every_pass_once_and_keep_the_token_budget(
    sequences: list[tuple[int, ...]], budget: int
) -> None:
    passes = plan_passes(keyed(sequences), share_prefixes=True)
    batches = plan_batches(passes, budget)
    assert Counter(plain([item for batch in batches for item in batch])) == Counter(plain(passes))
    for batch in batches:
        padded = len(batch) * max(len(item.token_ids) for item in batch)
        assert padded <= budget or len(batch) == 1
    lengths = [len(item.token_ids) for batch in batches for item in batch]
    assert lengths == sorted(lengths, reverse=True)


@settings(max_examples=150, deadline=None)
@given(SEQUENCES, st.data())
def test_without_keeps_what_is_missing_and_cuts_what_nobody_reads(
    sequences: list[tuple[int, ...]], data: st.DataObject
) -> None:
    wanted = keyed(sequences)
    stored = set(data.draw(st.lists(st.sampled_from(sorted(wanted)), unique=True)))
    left = [
        item
        for item in (without(item, stored) for item in plan_passes(wanted, share_prefixes=True))
        if item is not None
    ]
    assert Counter(key for item in left for key in item.keys) == Counter(wanted.keys() - stored)
    for item in left:
        assert len(item.token_ids) == max(item.readouts) + 1
        for place, key in zip(item.readouts, item.keys, strict=True):
            assert item.token_ids[: place + 1].tolist() == wanted[key].tolist()


def test_one_chain_of_prefixes_is_one_pass() -> None:
    chain = [(5,), (5, 6), (5, 6, 7), (5, 6, 7, 8)]
    (item,) = plan_passes(keyed([chain[2], chain[0], chain[3], chain[1]]), share_prefixes=True)
    assert item.token_ids.tolist() == [5, 6, 7, 8]
    assert sorted(item.readouts) == [0, 1, 2, 3]


def test_a_budget_is_filled_before_a_new_batch_begins() -> None:
    passes = plan_passes(keyed([(1, 1, 1, 1), (2, 2, 2), (3, 3), (4,), (5,)]), share_prefixes=True)
    sizes = [[len(item.token_ids) for item in batch] for batch in plan_batches(passes, 8)]
    assert sizes == [[4, 3], [2, 1, 1]]


def test_nothing_to_embed_is_an_empty_plan() -> None:
    assert plan_passes({}, share_prefixes=True) == []
    assert plan_batches([], 100) == []
