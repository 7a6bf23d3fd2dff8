"""Rated responses: each once, whatever pairs it is part of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.pairs import PairTable
from micro_rm.heads.ratings import rated_responses

NAMES = ("help", "brief")


def table(
    chosen: list[int], rejected: list[int], ratings: dict[str, np.ndarray] | None = None
) -> PairTable:
    """Pairs of store rows in the plain view, and their ratings (N, 2) by attribute."""
    rows = {"plain/chosen": np.array(chosen), "plain/rejected": np.array(rejected)}
    nothing = np.empty(0)
    return PairTable("x", "", {}, rows, {}, nothing, nothing, nothing, {}, {}, ratings or {})


def test_a_response_of_several_pairs_is_listed_once_with_its_ratings() -> None:
    """Response 7 wins under one attribute and loses under the other; 5 is in one pair only."""
    pairs = table(
        [7, 3, 7],
        [3, 7, 5],
        {
            "help": np.array([[4.0, 1], [1, 4], [4, 2]]),
            "brief": np.array([[0.0, 3], [3, 0], [0, np.nan]]),
        },
    )
    places_M, rating_MxA, held_out_M = rated_responses(
        pairs, np.arange(3), np.array([], np.int64), "plain"
    )
    assert places_M.tolist() == [3, 5, 7]
    np.testing.assert_array_equal(rating_MxA, [[1, 3], [2, np.nan], [4, 0]])
    assert held_out_M.tolist() == [False] * 3


def test_a_rating_that_one_pair_lacks_is_taken_from_another() -> None:
    """In either order: a missing value never wipes out a known one."""
    missing = np.array([[np.nan, 1.0], [4.0, 2.0]])
    for order in ([0, 1], [1, 0]):
        pairs = table([7, 7], [3, 5], {"help": missing})
        found = rated_responses(pairs, np.array(order), np.array([], np.int64), "plain")
        np.testing.assert_array_equal(found[1], [[1], [2], [4]])


def test_only_the_pairs_asked_for_count_and_held_out_ones_are_marked() -> None:
    pairs = table([1, 3, 5], [2, 4, 6], {"help": np.arange(6.0).reshape(3, 2)})
    places_M, rating_MxA, held_out_M = rated_responses(
        pairs, np.array([2, 0]), np.array([2]), "plain"
    )
    assert places_M.tolist() == [1, 2, 5, 6]
    assert rating_MxA[:, 0].tolist() == [0, 1, 4, 5]
    assert held_out_M.tolist() == [False, False, True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_whatever_the_pairs_every_response_keeps_its_own_ratings(
    sides: list[tuple[int, int]],
) -> None:
    """Response m is rated m and -m, some ratings are unknown; the table is as wide as its names."""
    chosen, rejected = [list(side) for side in zip(*sides, strict=True)]
    truth_MxA = np.array([[m, np.nan if m == 4 else -m] for m in range(6)], float)
    ratings = {
        name: np.stack([truth_MxA[chosen, column], truth_MxA[rejected, column]], axis=1)
        for column, name in enumerate(NAMES)
    }
    places_M, rating_MxA, _ = rated_responses(
        table(chosen, rejected, ratings), np.arange(len(sides)), np.array([]), "plain"
    )
    assert places_M.tolist() == sorted(set(chosen) | set(rejected))
    np.testing.assert_array_equal(rating_MxA, truth_MxA[places_M])
