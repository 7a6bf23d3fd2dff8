"""One reward at its exact optimum: what no other training of it can beat on the training rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.single_bt_exact import RIDGE, solve_bt

N, D = 60, 4
SINGLE_BT_EXACT = load_method("single_bt_exact")


def rows(seed: int, scale: float = 1.0) -> np.ndarray:
    """Noisy choices of a planted direction: nothing separates them."""
    rng = np.random.default_rng(seed)
    delta_NxD = rng.normal(size=(N, D)).astype(np.float32)
    wins_N = rng.random(N) < 1 / (1 + np.exp(-delta_NxD @ np.arange(1.0, D + 1) / 3))
    return scale * np.where(wins_N[:, None], delta_NxD, -delta_NxD)


def objective(head_D: np.ndarray, delta_NxD: np.ndarray, ridge: float) -> float:
    """Mean Bradley-Terry loss and penalty, in float64."""
    margin_N = delta_NxD.astype(np.float64) @ head_D.astype(np.float64)
    return float(np.logaddexp(0, -margin_N).mean() + ridge / 2 * np.sum(head_D**2))


def gradient(head_D: np.ndarray, delta_NxD: np.ndarray, ridge: float) -> np.ndarray:
    delta_NxD, head_D = delta_NxD.astype(np.float64), head_D.astype(np.float64)
    loses_N = 1 / (1 + np.exp(delta_NxD @ head_D))
    return -(loses_N @ delta_NxD) / len(delta_NxD) + ridge * head_D


def newton(delta_NxD: np.ndarray, ridge: float) -> np.ndarray:
    """The optimum by damped Newton steps in float64."""
    delta_NxD, head_D = delta_NxD.astype(np.float64), np.zeros(delta_NxD.shape[1])
    for _ in range(1000):
        loses_N = 1 / (1 + np.exp(delta_NxD @ head_D))
        curvature_N = loses_N * (1 - loses_N)
        hessian = (delta_NxD * curvature_N[:, None]).T @ delta_NxD / len(delta_NxD)
        hessian += ridge * np.eye(head_D.size)
        step_D = np.linalg.solve(hessian, gradient(head_D, delta_NxD, ridge))
        head_D = head_D - step_D / max(1.0, float(np.abs(step_D).max()))
    return head_D


@pytest.mark.parametrize("ridge", [RIDGE, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_vanishes_at_the_head_that_is_found(seed: int, ridge: float) -> None:
    """And the residual that is reported is the one in float64, up to the precision of float32."""
    delta_NxD = rows(seed)
    head_D, residual = solve_bt(jnp.asarray(delta_NxD), ridge)
    largest = np.abs(gradient(np.asarray(head_D), delta_NxD, ridge)).max()
    assert largest < 2e-6
    assert float(residual) == pytest.approx(largest, abs=1e-6)
    np.testing.assert_allclose(head_D, newton(delta_NxD, ridge), atol=2e-4)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_no_other_head_has_a_smaller_loss(seed: int) -> None:
    """Not one nearby, in any direction, nor any at all: the objective is convex."""
    rng = np.random.default_rng(seed)
    delta_NxD = rows(seed)
    head_D = np.asarray(solve_bt(jnp.asarray(delta_NxD), RIDGE)[0])
    best = objective(head_D, delta_NxD, RIDGE)
    for size in (1e-2, 1.0, 10.0):
        other_D = head_D + size * rng.normal(size=D)
        assert objective(other_D, delta_NxD, RIDGE) >= best - 1e-9


def test_fewer_steps_do_not_reach_it() -> None:
    """The check above can fail: three steps leave a gradient."""
    head_D, residual = solve_bt(jnp.asarray(rows(0)), RIDGE, steps=3)
    assert residual > 1e-4
    assert np.abs(gradient(np.asarray(head_D), rows(0), RIDGE)).max() > 1e-4


def test_rows_that_can_be_separated_end_at_a_finite_head() -> None:
    """Without the ridge there would be no optimum at all."""
    delta_NxD = np.abs(rows(3))
    head_D, residual = solve_bt(jnp.asarray(delta_NxD), RIDGE)
    assert np.isfinite(head_D).all()
    assert residual < 1e-5
    assert objective(np.asarray(head_D), delta_NxD, 0.0) < 1e-3
    np.testing.assert_array_less(0, delta_NxD @ np.asarray(head_D))


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_features_of_any_size_are_solved(scale: float) -> None:
    delta_NxD = rows(4, scale)
    head_D, _ = solve_bt(jnp.asarray(delta_NxD), RIDGE)
    expected = objective(newton(delta_NxD, RIDGE), delta_NxD, RIDGE)
    assert objective(np.asarray(head_D), delta_NxD, RIDGE) == pytest.approx(expected, abs=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("learning_rate", [1e-3, 1e-2, 0.1])
def test_an_adamw_run_comes_close_but_not_below(planted: Any, learning_rate: float) -> None:
    """``single_bt`` is the same model under another optimiser."""
    config = TrainConfig(learning_rate=learning_rate, epochs=20, select="last")
    problem = replace(planted.problem, train_config=config)
    exact = SINGLE_BT_EXACT.fit(problem, {})
    adamw = load_method("single_bt").fit(problem, {})
    delta_NxD = np.asarray(problem.train.rows.delta_NxD)
    kernel_D = np.asarray(adamw.params["heads"]["kernel"])[:, 0]
    losses = [objective(head_D, delta_NxD, 0.0) for head_D in (exact.params["head"], kernel_D)]
    assert losses[0] <= losses[1] + 1e-7
    assert losses[1] - losses[0] < 0.05


def test_the_head_scores_pairs_by_their_difference_alone(
    make_examples: Any, make_problem: Any
) -> None:
    trained = SINGLE_BT_EXACT.fit(make_problem(make_examples(rows(5))), {})
    assert trained.params["head"].shape == (D,)
    assert 0 <= trained.settings["largest_gradient"] < 2e-6
    delta, prompt = np.random.default_rng(6).normal(size=(2, 7, D)).astype(np.float32)
    prediction = SINGLE_BT_EXACT.predict(trained, make_examples(delta, prompt))
    np.testing.assert_allclose(
        prediction.statistic_SxN, [delta @ trained.params["head"]], rtol=1e-5
    )
    assert prediction.heads is None
    # One reward is the same under both rules.
    np.testing.assert_allclose(
        np.exp(prediction.log_prob_SxN), 1 / (1 + np.exp(-prediction.statistic_SxN)), rtol=1e-6
    )
