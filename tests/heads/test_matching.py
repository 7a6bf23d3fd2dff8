"""Heads matched by permutation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.heads.matching import (
    MatchingError,
    agreement,
    cosine_similarity,
    match_heads,
    recovery,
)

seeds = st.integers(0, 2**32 - 1)


def columns(seed: int, count: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(width, count))


def test_cosines_of_known_angles() -> None:
    left = np.array([[1.0, 0.0, 3.0], [0.0, 2.0, 3.0]])
    right = np.array([[5.0, -1.0], [0.0, -1.0]])
    half = 0.5**0.5
    expected = [[1.0, -half], [0.0, -half], [half, -1.0]]
    np.testing.assert_allclose(cosine_similarity(left, right), expected, atol=1e-12)


def test_margins_are_not_centred() -> None:
    """Two heads that both favour chosen agree, though their deviations from the mean do not."""
    one, other = np.array([[3.0], [5.0]]), np.array([[5.0], [3.0]])
    assert cosine_similarity(one, other)[0, 0] == pytest.approx(30 / 34)


@pytest.mark.parametrize("length", [1e-300, 1e300])
def test_length_does_not_matter(length: float) -> None:
    one = columns(0, 3)
    np.testing.assert_allclose(
        cosine_similarity(length * one, one), cosine_similarity(one, one), atol=1e-12
    )


def test_a_head_of_zeros_is_like_nothing() -> None:
    np.testing.assert_array_equal(cosine_similarity(np.zeros((4, 2)), columns(0, 3, 4)), 0.0)


def test_float32_kernels_are_compared_in_double_precision() -> None:
    one = columns(3, 2).astype(np.float32)
    assert cosine_similarity(one, one).dtype == np.float64


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), r"expected two matrices .* \(3, 2\) and \(4, 2\)"),
        (np.ones(3), np.ones((3, 2)), r"found shapes \(3,\) and \(3, 2\)"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), "expected finite values, found nan or inf"),
        (np.ones((3, 2)), np.full((3, 2), np.inf), "expected finite values, found nan or inf"),
    ],
)
def test_what_cannot_be_compared_is_an_error(
    left: np.ndarray, right: np.ndarray, message: str
) -> None:
    with pytest.raises(MatchingError, match=message):
        cosine_similarity(left, right)


def test_the_sum_decides_and_not_the_largest_entry() -> None:
    """Greedy matching would take 0.9 first and end at 0.9 + 0.1."""
    rows, columns_ = match_heads(np.array([[0.9, 0.8], [0.7, 0.1]]))
    assert (rows.tolist(), columns_.tolist()) == ([0, 1], [1, 0])


@given(seeds, st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_no_assignment_has_a_larger_sum(seed: int, left: int, right: int) -> None:
    similarity = np.random.default_rng(seed).uniform(-1, 1, (left, right))
    rows, found = match_heads(similarity)
    assert len(set(rows.tolist())) == len(set(found.tolist())) == min(left, right)
    assert (np.diff(rows) > 0).all()
    wide = similarity if left <= right else similarity.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(order))
        for order in permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert similarity[rows, found].sum() == pytest.approx(best)


@given(seeds, st.permutations(range(4)))
@settings(deadline=None, max_examples=60)
def test_permuted_and_stretched_heads_are_recovered(seed: int, order: list[int]) -> None:
    planted = columns(seed, 4)
    stretch = np.random.default_rng(seed).uniform(0.1, 10, 4)
    np.testing.assert_allclose(recovery(stretch * planted[:, order], planted), 1.0)
    rows, found = match_heads(cosine_similarity(planted[:, order], planted))
    assert found.tolist() == [order[row] for row in rows]


def test_an_opposite_head_has_not_found_the_direction() -> None:
    """Of three, the opposite one may also be matched to a direction it knows nothing about."""
    planted = np.eye(3)
    np.testing.assert_allclose(recovery(-planted[:, :1], planted[:, :1]), -1)
    assert recovery(planted * [1, -1, 1], planted).min() <= 0


def test_values_are_in_the_order_of_the_directions() -> None:
    planted = np.eye(3)
    blurred = np.array([[0.0, 0.6, 1.0], [0.0, 0.8, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(recovery(blurred, planted), [1.0, 0.8, 1.0])


def test_directions_without_a_head_get_nothing_and_spare_heads_do_not_count() -> None:
    planted = np.eye(4)[:, :3]
    np.testing.assert_allclose(recovery(planted[:, [2]], planted), [0, 0, 1])
    np.testing.assert_allclose(recovery(np.eye(4)[:, [3, 1, 0, 2]], planted), 1.0)


@given(seeds, st.permutations(range(3)))
@settings(deadline=None, max_examples=40)
def test_agreement_does_not_depend_on_the_order_of_heads(seed: int, order: list[int]) -> None:
    one, other = columns(seed, 3), columns(seed + 1, 3)
    straight, permuted = agreement([one, other]), agreement([one[:, order], other])
    np.testing.assert_allclose(permuted.value_MxK, straight.value_MxK[:, order])
    assert -1 <= straight.mean <= 1


def test_agreement_by_hand() -> None:
    one = np.array([[1.0, 0.0], [0.0, 1.0]])
    other = np.array([[0.8, 0.6], [-0.6, 0.8]])
    found = agreement([one, other, -one])
    np.testing.assert_allclose(found.value_MxK, [[0.8, 0.8], [0.0, 0.0], [0.6, -0.6]], atol=1e-12)
    assert found.mean == pytest.approx(1.6 / 6)
    assert found.pairs_Mx2.tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([np.ones((3, 2))], r"expected two or more runs .* found 1 runs with shapes \[\(3, 2\)\]"),
        ([np.ones((3, 2)), np.ones((3, 4))], r"shapes \[\(3, 2\), \(3, 4\)\]"),
    ],
)
def test_agreement_needs_two_runs_of_one_shape(heads: list[np.ndarray], message: str) -> None:
    with pytest.raises(MatchingError, match=message):
        agreement(heads)
