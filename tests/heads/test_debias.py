"""Scores freed of their rank correlation with verbosity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from micro_rm.heads.debias import PENALTIES, average_ranks, fit_debias, spearman, verbosity_penalty

N, LIMIT = 400, 0.03


def scores(*shares: float, seed: int = 0) -> np.ndarray:
    """(N, A + 1) scores that are that much verbosity and otherwise noise; verbosity comes last."""
    rng = np.random.default_rng(seed)
    verbosity_N = rng.normal(size=N)
    columns = [share * verbosity_N + rng.normal(size=N) for share in shares]
    return np.stack([*columns, verbosity_N], axis=1)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 30), elements=st.integers(-5, 5).map(float)))
def test_ranks_are_those_of_scipy(value_N: np.ndarray) -> None:
    np.testing.assert_array_equal(average_ranks(value_N), stats.rankdata(value_N))


@pytest.mark.parametrize("digits", [0, 6])
def test_rho_is_that_of_scipy(digits: int) -> None:
    """With ties (no digits) and without."""
    first_N, second_N = np.round(scores(0.7), digits).T
    expected = stats.spearmanr(first_N, second_N).statistic
    assert spearman(first_N, second_N) == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_has_no_correlation() -> None:
    assert spearman(np.ones(5), np.arange(5)) == 0.0
    assert spearman(np.arange(5), np.ones(5)) == 0.0


def test_the_penalty_is_the_smallest_of_the_grid_that_suffices() -> None:
    assert PENALTIES.size == 24
    assert PENALTIES[:9].tolist() == [0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2]
    assert (PENALTIES[0], PENALTIES[-1]) == (0.0, 0.95)
    for share in (0.2, 0.5, 0.8):
        score_N, verbosity_N = scores(share).T
        penalty = verbosity_penalty(score_N, verbosity_N, LIMIT)
        place = int(np.flatnonzero(penalty == PENALTIES)[0])
        assert place > 0
        assert spearman(score_N - penalty * verbosity_N, verbosity_N) <= LIMIT
        smaller = PENALTIES[place - 1]
        assert spearman(score_N - smaller * verbosity_N, verbosity_N) > LIMIT


def test_the_penalty_is_one_where_the_grid_is_not_enough_and_none_where_it_need_not_be() -> None:
    assert verbosity_penalty(*scores(5.0).T, LIMIT) == 1.0
    assert verbosity_penalty(*scores(-0.5).T, LIMIT) == 0.0


@settings(max_examples=15, deadline=None)
@given(shares=st.lists(st.floats(-1, 0.85), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_the_transform_removes_the_rank_correlation(shares: list[float], seed: int) -> None:
    score_NxA = scores(*shares, seed=seed)
    verbosity = len(shares)
    debias = fit_debias(score_NxA, verbosity, LIMIT)
    freed_NxA = score_NxA @ debias.transform_AxA
    np.testing.assert_array_equal(freed_NxA[:, verbosity], np.zeros(N))
    for column in range(verbosity):
        worked = debias.penalty_A[column] < 1
        rho = spearman(freed_NxA[:, column], score_NxA[:, verbosity])
        # The product of matrices rounds otherwise than the difference that was judged.
        assert rho <= LIMIT + 1e-4 or not worked


def test_the_transform_is_the_identity_with_the_verbosity_row_reduced() -> None:
    debias = fit_debias(scores(0.5, 0.0)[:, [0, 2, 1]], 1, LIMIT)
    first, own, last = debias.penalty_A
    assert own == 1.0
    assert 0 < first < 1
    np.testing.assert_array_equal(debias.transform_AxA, [[1, 0, 0], [-first, 0, -last], [0, 0, 1]])


@pytest.mark.parametrize("score_NxA, verbosity", [(scores(0.5), None), (scores(), 0)])
def test_without_another_column_nothing_changes(
    score_NxA: np.ndarray, verbosity: int | None
) -> None:
    debias = fit_debias(score_NxA, verbosity, LIMIT)
    np.testing.assert_array_equal(debias.transform_AxA, np.eye(score_NxA.shape[1]))
    np.testing.assert_array_equal(debias.penalty_A, 0)
