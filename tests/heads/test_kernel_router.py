"""Kernel Hedge: the ridge regression behind the router, and what its kernel sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.heads.kernel_router import (
    context_features,
    fit_kernel_router,
    kernel_log_weights,
    response_directions,
)

D, K = 6, 4


def wishes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D))


def covariance(seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(50, D)) * np.arange(1, D + 1)
    return rows.T @ rows / 50


@given(st.integers(0, 10**6))
def test_the_kernel_is_the_mean_of_two_cosines(seed: int) -> None:
    centre_D, covariance_DxD = np.full(D, 0.3), covariance(seed)
    one, other = wishes(2, seed)
    features = context_features(
        np.stack([one, other]), centre_D, response_directions(covariance_DxD, D)
    )

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    a, b = one - centre_D, other - centre_D
    expected = (cosine(a, b) + cosine(covariance_DxD @ a, covariance_DxD @ b)) / 2
    assert features[0] @ features[1] == pytest.approx(expected, abs=1e-9)
    assert features[0] @ features[0] == pytest.approx(1.0)


def test_leading_directions_alone_give_nearly_the_same_kernel() -> None:
    """Eigenvalues enter squared: what is cut off hardly counts."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 40)) * 0.8 ** np.arange(40)
    covariance_DxD = rows.T @ rows / 400
    context_NxD = rng.normal(size=(30, 40))
    centre_D = np.zeros(40)
    gram = [
        (
            features := context_features(
                context_NxD, centre_D, response_directions(covariance_DxD, r)
            )
        )
        @ features.T
        for r in (40, 12)
    ]
    assert np.abs(gram[0] - gram[1]).max() < 0.01


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_both_forms_of_the_ridge_regression_agree_and_spare_the_intercept(
    seed: int, count: int
) -> None:
    """Few rows are solved row by row, many feature by feature: 12 features here."""
    projection = response_directions(covariance(seed), D)
    context_nxD, losses_nxK = wishes(count, seed), np.random.default_rng(seed).random((count, K))
    router = fit_kernel_router(context_nxD, losses_nxK, projection, ridge=0.1)
    features = context_features(context_nxD, context_nxD.mean(axis=0), projection)
    with_one = np.concatenate([features, np.ones((count, 1))], axis=-1)
    penalty = np.diag([0.1 * count] * features.shape[1] + [0.0])
    expected = np.linalg.solve(with_one.T @ with_one + penalty, with_one.T @ losses_nxK)
    np.testing.assert_allclose(router.kernel_PxK, expected[:-1], atol=1e-8)
    np.testing.assert_allclose(router.intercept_K, expected[-1], atol=1e-8)


def test_a_head_that_is_good_everywhere_is_preferred_everywhere() -> None:
    """Head 0 loses least under every wish, head 3 most; 1 and 2 take turns."""
    code = np.eye(D)[0] * 5
    context_nxD = np.repeat([code, -code], 10, axis=0) + 0.5 * wishes(20, 0)
    losses_nxK = np.repeat([[0.3, 0.4, 0.6, 1.3], [0.3, 0.6, 0.4, 1.3]], 10, axis=0)
    router = fit_kernel_router(context_nxD, losses_nxK, np.eye(D), ridge=0.03)
    weights_NxK = np.exp(kernel_log_weights(router, wishes(50, 1) * 5, tau=0.04))
    np.testing.assert_array_equal(weights_NxK.argmax(axis=1), 0)
    assert weights_NxK[:, 3].max() < 1e-6
    assert np.ptp(weights_NxK[:, 1:3], axis=0).min() > 0.01  # and wishes still matter


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_a_loss_that_every_row_shares_moves_nothing_but_the_intercept(
    seed: int, count: int
) -> None:
    context_nxD, losses_nxK = wishes(count, seed), np.random.default_rng(seed).random((count, K))
    shared_K = np.arange(float(K))
    plain, moved = (
        fit_kernel_router(context_nxD, losses, np.eye(D), ridge=0.03)
        for losses in (losses_nxK, losses_nxK + shared_K)
    )
    np.testing.assert_allclose(moved.kernel_PxK, plain.kernel_PxK, atol=1e-8)
    np.testing.assert_allclose(moved.intercept_K, plain.intercept_K + shared_K, atol=1e-8)


def test_rows_that_repeat_a_wish_weigh_like_rows_with_their_own() -> None:
    projection = response_directions(covariance(0), D)
    context_nxD, losses_nxK = wishes(5, 0), np.random.default_rng(0).random((5, K))
    once = fit_kernel_router(context_nxD, losses_nxK, projection, ridge=0.05)
    often = fit_kernel_router(
        np.repeat(context_nxD, 7, axis=0), np.repeat(losses_nxK, 7, axis=0), projection, ridge=0.05
    )
    np.testing.assert_allclose(once.kernel_PxK, often.kernel_PxK, atol=1e-10)


def test_a_wish_gets_the_head_that_lost_least_for_wishes_like_it() -> None:
    projection = response_directions(np.eye(D), D)
    codes = np.eye(D)[:3] * 5
    context_nxD = np.repeat(codes, 4, axis=0) + 0.1 * wishes(12, 3)
    losses_nxK = np.ones((12, 3))
    losses_nxK[np.arange(12), np.repeat(np.arange(3), 4)] = 0.1
    router = fit_kernel_router(context_nxD, losses_nxK, projection, ridge=0.03)
    unseen = codes + 0.3 * wishes(3, 4)
    weights_NxK = np.exp(kernel_log_weights(router, unseen, tau=0.04))
    np.testing.assert_array_equal(weights_NxK.argmax(axis=1), [0, 1, 2])
    assert weights_NxK.max(axis=1).min() > 0.9
    np.testing.assert_allclose(weights_NxK.sum(axis=1), 1)


def test_heat_makes_the_weights_equal_and_cold_makes_them_one_hot() -> None:
    router = fit_kernel_router(
        wishes(20, 1), np.random.default_rng(1).random((20, K)), np.eye(D), ridge=0.03
    )
    hot, cold = (np.exp(kernel_log_weights(router, wishes(5, 2), tau)) for tau in (1e6, 1e-6))
    np.testing.assert_allclose(hot, 1 / K, atol=1e-4)
    np.testing.assert_allclose(cold.max(axis=1), 1, atol=1e-4)


def test_without_labelled_rows_all_heads_weigh_alike() -> None:
    nothing = fit_kernel_router(np.empty((0, D)), np.empty((0, K)), np.eye(D), ridge=0.03)
    np.testing.assert_allclose(np.exp(kernel_log_weights(nothing, wishes(3, 0), 0.04)), 1 / K)


@pytest.mark.parametrize(("wordings", "ridge"), [(1, 0.03), (8, 1e12)])
def test_where_wishes_tell_nothing_weights_are_hedge_on_the_mean_losses(
    wordings: int, ridge: float
) -> None:
    """There is only one wish, or the penalty lets nothing depend on it."""
    context_nxD = np.tile(wishes(wordings, 5), (8 // wordings, 1))
    losses_nxK = np.random.default_rng(5).random((8, K))
    router = fit_kernel_router(context_nxD, losses_nxK, np.eye(D), ridge)
    hedge_K = np.exp(-losses_nxK.mean(axis=0) / 0.2)
    expected_NxK = np.broadcast_to(hedge_K / hedge_K.sum(), (4, K))
    found_NxK = np.exp(kernel_log_weights(router, wishes(4, 6), tau=0.2))
    np.testing.assert_allclose(found_NxK, expected_NxK, rtol=1e-6)
