"""Stage 2 as a method: frozen heads, one router per draw."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.schema import AdaptConfig, TrainConfig
from micro_rm.heads.hedge import AdaptData, fit_router
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Problem, Trained, one_draw
from micro_rm.heads.model import ModelSpec, init, margins
from micro_rm.heads.training import Rows

D, K, DRAWS, BUDGET = 6, 3, 3, 10
SPEC = ModelSpec(D, K, "linear")


def rows(*shape: int, seed: int) -> Rows:
    delta, prompt = np.random.default_rng(seed).normal(size=(2, *shape, D)).astype(np.float32)
    return Rows(jnp.asarray(delta), jnp.asarray(prompt))


@pytest.fixture(scope="module")
def stage1() -> Trained:
    params = one_draw(init(SPEC, jax.random.key(0)))
    return Trained(SPEC, params, {"objective": np.array([1.0])})


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem(
        width=D,
        train=rows(8, seed=0),
        validation=rows(0, seed=0),
        train_config=TrainConfig(num_heads=K, router="linear"),
        adapt_config=AdaptConfig(
            budget=BUDGET, draws=DRAWS, epochs=4, batch_size=BUDGET, learning_rate=0.05, tau=0.1
        ),
        key=jax.random.key(0),
        budget=rows(DRAWS, BUDGET, seed=1),
    )


@pytest.fixture(scope="module")
def adapted(problem: Problem, stage1: Trained) -> Trained:
    return load_method("micro").fit(problem, {"micro_stage1": stage1})


def test_heads_are_bit_identical_before_and_after(stage1: Trained, adapted: Trained) -> None:
    """G-H7."""
    before, after = (np.asarray(m.params["heads"]["kernel"]) for m in (stage1, adapted))
    assert before.tobytes() == after.tobytes()


def test_every_draw_has_a_router_that_learned_something_of_its_own(
    stage1: Trained, adapted: Trained
) -> None:
    kernel_SxDxK = np.asarray(adapted.params["router"]["output"]["kernel"])
    start_DxK = np.asarray(stage1.params["router"]["output"]["kernel"])[0]
    assert kernel_SxDxK.shape == (DRAWS, D, K)
    assert np.abs(kernel_SxDxK - start_DxK).max(axis=(1, 2)).min() > 0.01
    assert np.abs(kernel_SxDxK[0] - kernel_SxDxK[1]).max() > 0.01


def test_a_draw_is_the_fit_to_its_own_rows_from_the_stage_1_router(
    problem: Problem, stage1: Trained, adapted: Trained
) -> None:
    """With one batch per epoch the order of rows cannot matter, so neither can the key."""
    assert problem.budget is not None
    for draw in range(DRAWS):
        budget = jax.tree.map(lambda leaf, draw=draw: leaf[draw], problem.budget)
        delta_NxK = margins(stage1.params["heads"], budget.delta_NxD)
        data = AdaptData(delta_NxK, budget.router_input_NxD)
        start = jax.tree.map(lambda leaf: leaf[0], stage1.params["router"])
        router, _ = fit_router(SPEC, start, data, problem.adapt_config, jax.random.key(99))
        for found, expected in zip(
            jax.tree.leaves(adapted.params["router"]), jax.tree.leaves(router), strict=True
        ):
            np.testing.assert_allclose(found[draw], expected, atol=1e-4)


def test_the_curve_is_the_mean_over_draws(problem: Problem, adapted: Trained) -> None:
    assert set(adapted.curves) == {"cross_entropy"}
    assert adapted.curves["cross_entropy"].shape == (problem.adapt_config.epochs,)
    assert np.isfinite(adapted.curves["cross_entropy"]).all()


def test_a_budget_of_zero_returns_the_stage_1_router(problem: Problem, stage1: Trained) -> None:
    """G-H12."""
    nothing = replace(problem, budget=rows(DRAWS, 0, seed=2))
    adapted = load_method("micro").fit(nothing, {"micro_stage1": stage1})
    jax.tree.map(np.testing.assert_array_equal, adapted.params, stage1.params)


def test_the_same_seed_gives_the_same_routers(
    problem: Problem, stage1: Trained, adapted: Trained
) -> None:
    again = load_method("micro").fit(problem, {"micro_stage1": stage1})
    jax.tree.map(np.testing.assert_array_equal, again.params, adapted.params)
