"""Bins lose nothing, keep their size, and compute little more than the whole tree would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.packing import Bin, pack_rows, pack_trees
from micro_rm.embed.trees import common_prefix_length, lay_out
from micro_rm.tests.embed.token_sequences import Ids, arrays, bushes

SIZES = st.integers(1, 60)
SHUFFLES = st.randoms(use_true_random=False)


def contents(bins: Sequence[Bin], sequences: Sequence[Ids]) -> list[frozenset[Ids]]:
    return [frozenset(sequences[index] for index in packed.members) for packed in bins]


def common_prefix(sequences: Sequence[np.ndarray]) -> int:
    def common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return one[: common_prefix_length(one, other)]

    return len(reduce(common, sequences))


@settings(max_examples=100, deadline=None)
@given(bushes(), SIZES, SHUFFLES)
def test_bins_of_trees_lose_nothing_and_keep_their_size(
    sequences: list[Ids], size: int, random: Random
) -> None:
    """At most ``bin_tokens``, or twice what all members share; longer sequences are alone."""
    ids = arrays(sequences)
    bins = pack_trees(ids, size)
    placed = Counter(index for packed in bins for index in packed.members)
    assert placed == Counter(range(len(sequences)))
    for packed in bins:
        members = [ids[index] for index in packed.members]
        assert packed.tokens == len(lay_out(members).token_ids)
        assert packed.tokens <= max(size, 2 * common_prefix(members)) or len(members) == 1
    tokens = [packed.tokens for packed in bins]
    assert tokens == sorted(tokens, reverse=True)
    shuffled = list(sequences)
    random.shuffle(shuffled)
    other = pack_trees(arrays(shuffled), size)
    assert contents(other, shuffled) == contents(bins, sequences)
    assert [packed.tokens for packed in other] == tokens


@settings(max_examples=100, deadline=None)
@given(bushes())
def test_what_fits_into_one_bin_stays_in_one(sequences: list[Ids]) -> None:
    ids = arrays(sequences)
    size = len(lay_out(ids).token_ids)
    assert [packed.tokens for packed in pack_trees(ids, size)] == [size]


def test_a_prompt_with_more_responses_than_a_bin_holds_is_split() -> None:
    prompt = np.arange(100, 140, dtype=np.int32)
    ids = [np.concatenate([prompt, np.full(20, index, np.int32)]) for index in range(50)]
    bins = pack_trees(ids, 200)
    assert sorted(index for packed in bins for index in packed.members) == list(range(50))
    # 40 tokens of prompt and up to 8 responses of 20 in each.
    assert [packed.tokens for packed in bins] == [200] * 6 + [80]


def test_a_prompt_of_more_than_half_a_bin_is_worth_a_larger_one() -> None:
    prompt = np.arange(100, 190, dtype=np.int32)
    ids = [np.concatenate([prompt, np.full(10, index, np.int32)]) for index in range(20)]
    # Twice the prompt is 180: nine responses each, instead of one in each bin of 100.
    assert [packed.tokens for packed in pack_trees(ids, 100)] == [180, 180, 110]


def test_bins_with_room_left_share_the_prefix_above() -> None:
    header = [9] * 4
    ids = arrays([(*header, word, *[reply] * 7) for word in (1, 2) for reply in (1, 2, 3)])
    # Two of three replies fill a bin behind each word; the third ones meet behind the header.
    bins = pack_trees(ids, 20)
    assert [packed.tokens for packed in bins] == [20, 19, 19]
    assert len({ids[index][4] for index in bins[0].members}) == 2


def test_a_sequence_goes_where_it_leaves_the_least_room() -> None:
    ids = [np.full(size, size, np.int32) for size in (4, 5, 8, 11, 12)]
    bins = pack_trees(ids, 20)
    assert {frozenset(len(ids[n]) for n in packed.members) for packed in bins} == {
        frozenset({12, 8}),
        frozenset({11, 5, 4}),
    }


def test_a_longer_sequence_has_a_bin_of_its_own() -> None:
    ids = arrays([(1,) * 50, (2, 3), (2, 4)])
    bins = pack_trees(ids, 10)
    assert [(packed.members, packed.tokens) for packed in bins] == [((0,), 50), ((1, 2), 3)]


def test_a_caterpillar_of_two_thousand_sequences_is_packed() -> None:
    """Each shares one token more than the one before: a tree as deep as there are sequences."""
    ids = [np.array([0] * depth + [1], np.int32) for depth in range(2000)]
    bins = pack_trees(ids, 64)
    assert sorted(index for packed in bins for index in packed.members) == list(range(2000))
    for packed in bins:
        shared = common_prefix([ids[index] for index in packed.members])
        assert packed.tokens <= max(64, 2 * shared) or len(packed.members) == 1


def test_nothing_to_pack_is_no_bin() -> None:
    assert pack_trees([], 100) == []
    assert pack_rows([], 100, causal=True) == []


def lognormal_lengths(random: np.random.Generator, mean: float, size: int) -> np.ndarray:
    spread = 0.8
    drawn = random.lognormal(np.log(mean) - spread**2 / 2, spread, size)
    return np.clip(drawn, 4, 2000).astype(int)


def helpsteer_like(prompts: int) -> list[np.ndarray]:
    """A header, a prompt of about 200 tokens, two responses of about 340, as HelpSteer2 has."""
    random = np.random.default_rng(0)
    header = random.integers(0, 30_000, 25)
    sizes = [lognormal_lengths(random, mean, prompts) for mean in (200, 340, 340)]
    sequences: list[np.ndarray] = []
    for prompt_size, *reply_sizes in zip(*sizes, strict=True):
        prompt = np.concatenate([header, random.integers(0, 30_000, prompt_size)])
        replies = [random.integers(0, 30_000, size) for size in reply_sizes]
        sequences += [prompt, *(np.concatenate([prompt, reply]) for reply in replies)]
    return [ids.astype(np.int32) for ids in sequences]


def test_bins_are_full_and_repeat_little_of_what_is_shared() -> None:
    ids = helpsteer_like(2000)
    bins = pack_trees(ids, 32_768)
    computed = sum(packed.tokens for packed in bins)
    assert max(packed.tokens for packed in bins) <= 32_768
    assert computed / (len(bins) * 32_768) > 0.97
    assert computed <= 1.02 * len(lay_out(ids).token_ids)


def maximal(sequences: Sequence[Ids]) -> set[Ids]:
    """Sequences that are no prefix of another one."""
    return {
        one
        for one in sequences
        if not any(len(two) > len(one) and two[: len(one)] == one for two in sequences)
    }


@settings(max_examples=100, deadline=None)
@given(bushes(), SIZES, st.booleans(), SHUFFLES)
def test_bins_of_rows_lose_nothing_and_keep_their_size(
    sequences: list[Ids], size: int, causal: bool, random: Random
) -> None:
    """A causal model reads a prefix from a longer row.

    It comes right behind its row, which is where the backbone looks for it.
    """
    with_a_row = maximal(sequences) if causal else set(sequences)
    bins = pack_rows(arrays(sequences), size, causal=causal)
    placed = Counter(index for packed in bins for index in packed.members)
    assert placed == Counter(range(len(sequences)))
    lengths: list[int] = []
    for packed in bins:
        members, host = [sequences[index] for index in packed.members], ()
        for ids in members:
            host = ids if ids in with_a_row else host
            assert host[: len(ids)] == ids
        rows = [len(ids) for ids in members if ids in with_a_row]
        assert packed.tokens == sum(rows)
        assert len(rows) * max(rows) <= size or len(rows) == 1
        lengths += rows
    assert lengths == sorted(lengths, reverse=True)
    shuffled = list(sequences)
    random.shuffle(shuffled)
    other = pack_rows(arrays(shuffled), size, causal=causal)
    assert contents(other, shuffled) == contents(bins, sequences)


def test_a_bin_of_rows_is_filled_before_the_next_begins() -> None:
    ids = arrays([(1, 1, 1, 1), (2, 2, 2), (3, 3), (4,), (5,)])
    bins = pack_rows(ids, 8, causal=True)
    assert [[len(ids[index]) for index in packed.members] for packed in bins] == [[4, 3], [2, 1, 1]]


def test_a_bin_of_rows_more_than_half_full_is_not_padded_for_a_shorter_row() -> None:
    ids = arrays([(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4), (5,)])
    bins = pack_rows(ids, 12, causal=False)
    assert [[len(ids[index]) for index in packed.members] for packed in bins] == [[3, 3, 3], [2, 1]]
