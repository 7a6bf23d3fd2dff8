"""Ridge regression with missing labels and a penalty per column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.heads.ridge import PENALTIES, fit_ridge, held_out_rows, solve_ridge

M, D, A = 60, 5, 3


def problem(seed: int = 0, noise: float = 0.1, rows: int = M) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a linear truth."""
    rng = np.random.default_rng(seed)
    features_MxD = rng.normal(size=(rows, D)).astype(np.float32)
    label_MxA = features_MxD @ rng.normal(size=(D, A)) + noise * rng.normal(size=(rows, A))
    return features_MxD, label_MxA


def normal_equations(features_MxD: np.ndarray, label_M: np.ndarray, penalty: float) -> np.ndarray:
    """(D,) the ridge solution, literally."""
    x_MxD = features_MxD.astype(np.float64)
    return np.linalg.solve(x_MxD.T @ x_MxD + penalty * np.eye(x_MxD.shape[1]), x_MxD.T @ label_M)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.floats(-4, 4), rows=st.integers(1, 40))
def test_every_penalty_matches_the_normal_equations(seed: int, power: float, rows: int) -> None:
    """Also with fewer rows than dimensions."""
    features_MxD, label_MxA = problem(seed, rows=rows)
    penalties = np.array([10.0**power, 3.0])
    heads_PxDxA = solve_ridge(features_MxD, label_MxA, penalties)
    for head_DxA, penalty in zip(heads_PxDxA, penalties, strict=True):
        expected = normal_equations(features_MxD, label_MxA, penalty)
        np.testing.assert_allclose(head_DxA, expected, rtol=1e-6, atol=1e-8)


def test_an_infinite_penalty_gives_zero_weights() -> None:
    small, none = solve_ridge(*problem(), np.array([1e12, np.inf]))
    assert np.abs(small).max() < 1e-8
    np.testing.assert_array_equal(none, np.zeros((D, A)))


def test_there_is_no_intercept() -> None:
    """With one, a constant label would leave nothing to the slope."""
    features_MxD = np.array([[1.0], [3.0]])
    head_DxA = solve_ridge(features_MxD, np.array([[5.0], [5.0]]), np.array([1e-9]))[0]
    assert head_DxA[0, 0] == pytest.approx(2.0)


def test_the_grid_is_powers_of_ten_and_the_penalty_minimises_the_held_out_error() -> None:
    np.testing.assert_allclose(PENALTIES, [1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 1e4])
    features_MxD, label_MxA = problem(noise=3.0)
    label_MxA[:, 0] = np.random.default_rng(5).normal(size=M)  # nothing to learn
    held_out_M = np.arange(M) >= 40
    fitted = fit_ridge(features_MxD, label_MxA, held_out_M)
    for column in range(A):
        heads = [normal_equations(features_MxD[:40], label_MxA[:40, column], p) for p in PENALTIES]
        errors = [np.mean((features_MxD[40:] @ h - label_MxA[40:, column]) ** 2) for h in heads]
        best = int(np.argmin(errors))
        np.testing.assert_allclose(fitted.error_PxA[:, column], errors, rtol=1e-6)
        assert fitted.penalty_A[column] == PENALTIES[best]
        # The final fit is on the rest, not on all.
        np.testing.assert_allclose(fitted.head_DxA[:, column], heads[best], rtol=1e-6, atol=1e-10)
    assert len(set(fitted.penalty_A)) > 1


def test_missing_labels_are_masked_column_by_column() -> None:
    features_MxD, label_MxA = problem()
    held_out_M = np.arange(M) % 4 == 0
    masked_MxA = label_MxA.copy()
    masked_MxA[10:30, 1] = np.nan
    fitted = fit_ridge(features_MxD, masked_MxA, held_out_M)
    whole = fit_ridge(features_MxD, label_MxA, held_out_M)
    np.testing.assert_allclose(fitted.head_DxA[:, [0, 2]], whole.head_DxA[:, [0, 2]], atol=1e-12)
    known_M = ~np.isnan(masked_MxA[:, 1])
    alone = fit_ridge(features_MxD[known_M], label_MxA[known_M, 1:2], held_out_M[known_M])
    np.testing.assert_allclose(fitted.head_DxA[:, 1], alone.head_DxA[:, 0], atol=1e-12)
    assert fitted.penalty_A[1] == alone.penalty_A[0]


def test_a_column_without_labels_gets_a_zero_head() -> None:
    features_MxD, label_MxA = problem()
    label_MxA[:, 2] = np.nan
    fitted = fit_ridge(features_MxD, label_MxA, np.arange(M) < 10)
    np.testing.assert_array_equal(fitted.head_DxA[:, 2], 0)
    assert fitted.penalty_A[2] == max(PENALTIES)
    assert np.isnan(fitted.error_PxA[:, 2]).all()
    assert np.abs(fitted.head_DxA[:, :2]).max() > 0


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), seed=st.integers(0, 9), data=st.data())
def test_penalties_are_judged_by_known_rows_only(rows: int, seed: int, data: st.DataObject) -> None:
    masks = st.lists(st.booleans(), min_size=rows, max_size=rows).map(np.array)
    known_M, held_out_M = data.draw(masks.filter(np.any)), data.draw(masks)
    judged_M = held_out_rows(known_M, held_out_M, seed)
    assert judged_M.any()
    assert not (judged_M & ~known_M).any()
    held, rest = known_M & held_out_M, known_M & ~held_out_M
    if held.any() and rest.any():
        np.testing.assert_array_equal(judged_M, held)
    else:
        assert judged_M.sum() == max(known_M.sum() // 5, 1)
        np.testing.assert_array_equal(judged_M, held_out_rows(known_M, held_out_M, seed))


def test_without_held_out_rows_the_seed_picks_the_fifth() -> None:
    known_M, nobody_M = np.ones(M, bool), np.zeros(M, bool)
    first, other = (held_out_rows(known_M, nobody_M, seed) for seed in (0, 1))
    assert (first != other).any()


def test_a_single_row_is_fitted_and_judged() -> None:
    fitted = fit_ridge(np.ones((1, 1)), np.array([[0.7]]), np.zeros(1, bool))
    assert fitted.penalty_A[0] == min(PENALTIES)
    assert fitted.head_DxA[0, 0] == pytest.approx(0.7, abs=1e-3)
