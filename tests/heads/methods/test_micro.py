"""Stage 2 as a method: frozen heads, one router per draw."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.hedge import AdaptData, fit_router
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Problem, Trained, one_draw
from micro_rm.heads.model import ModelSpec, init, margins

D, K, DRAWS, BUDGET = 6, 3, 3, 10
SPEC = ModelSpec(D, K, "linear")


def arrays(*shape: int, seed: int) -> np.ndarray:
    """Differences and router inputs of the given shape."""
    return np.random.default_rng(seed).normal(size=(2, *shape, D)).astype(np.float32)


@pytest.fixture(scope="module")
def stage1() -> Trained:
    params = one_draw(init(SPEC, jax.random.key(0)))
    return Trained(params, {"spec": asdict(SPEC)}, {"objective": np.array([1.0])})


@pytest.fixture(scope="module")
def problem(make_examples: Any, make_budget: Any, make_problem: Any) -> Problem:
    return make_problem(
        make_examples(*arrays(8, seed=0)),
        train_config=TrainConfig(num_heads=K, router="linear"),
        adapt_config=AdaptConfig(
            budget=BUDGET, draws=DRAWS, epochs=4, batch_size=BUDGET, learning_rate=0.05, tau=0.1
        ),
        groups=("brief", "polite"),
        budget=make_budget(*arrays(DRAWS, BUDGET, seed=1), groups=2),
    )


@pytest.fixture(scope="module")
def adapted(problem: Problem, stage1: Trained) -> Trained:
    return load_method("micro").fit(problem, {"micro_stage1": stage1})


def test_heads_are_bit_identical_before_and_after(stage1: Trained, adapted: Trained) -> None:
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


def test_the_curve_is_the_mean_over_draws(problem: Problem, adapted: Trained) -> None:
    assert set(adapted.curves) == {"cross_entropy"}
    assert adapted.curves["cross_entropy"].shape == (problem.adapt_config.epochs,)
    assert np.isfinite(adapted.curves["cross_entropy"]).all()


def test_a_budget_of_zero_returns_the_stage_1_router(
    problem: Problem, stage1: Trained, make_budget: Any
) -> None:
    nothing = replace(problem, budget=make_budget(*arrays(DRAWS, 0, seed=2)))
    adapted = load_method("micro").fit(nothing, {"micro_stage1": stage1})
    jax.tree.map(np.testing.assert_array_equal, adapted.params, stage1.params)
    assert adapted.spec == SPEC


def test_places_that_a_group_could_not_fill_teach_nothing(
    problem: Problem, stage1: Trained, make_budget: Any
) -> None:
    """Whatever stands in them; the rows beside them are learnt from as before."""
    mask_SxB = np.ones((DRAWS, BUDGET), np.float32)
    mask_SxB[:, 7:] = 0
    routers = []
    for filling in (0.0, 50.0):
        delta, prompt = arrays(DRAWS, BUDGET, seed=1)
        delta[:, 7:] = prompt[:, 7:] = filling
        short = replace(problem, budget=make_budget(delta, prompt, mask=mask_SxB))
        routers.append(load_method("micro").fit(short, {"micro_stage1": stage1}).params["router"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *routers)
    start_DxK = np.asarray(stage1.params["router"]["output"]["kernel"])[0]
    assert np.abs(np.asarray(routers[0]["output"]["kernel"]) - start_DxK).max() > 0.01


@pytest.mark.parametrize("targets", ["example", "wording", "group"])
def test_targets_come_from_the_losses_of_a_row_a_wording_or_a_group(
    problem: Problem, stage1: Trained, make_budget: Any, targets: Any
) -> None:
    """Against a fit to the pools of each draw; wordings differ from groups and between draws.

    With one batch per epoch the order of rows cannot matter, so neither can the key.
    """
    wording_SxB = np.random.default_rng(4).integers(20, 23, (DRAWS, BUDGET))
    delta, prompt = arrays(DRAWS, BUDGET, seed=1)
    budget = make_budget(delta, prompt, groups=2, wording=wording_SxB)
    config = replace(problem.adapt_config, targets=targets)
    adapted = load_method("micro").fit(
        replace(problem, budget=budget, adapt_config=config), {"micro_stage1": stage1}
    )
    pools = {
        "example": np.tile(np.arange(BUDGET), (DRAWS, 1)),
        "wording": wording_SxB - 20,
        "group": np.tile(np.repeat([0, 1], BUDGET // 2), (DRAWS, 1)),
    }
    start = jax.tree.map(lambda leaf: leaf[0], stage1.params["router"])
    for draw in range(DRAWS):
        data = AdaptData(
            margins(stage1.params["heads"], jnp.asarray(delta[draw])),
            jnp.asarray(prompt[draw]),
            jnp.ones(BUDGET),
            jnp.asarray(pools[targets][draw]),
        )
        router, _ = fit_router(SPEC, start, data, config, jax.random.key(99))
        found = jax.tree.map(lambda leaf, draw=draw: leaf[draw], adapted.params["router"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, router)


def test_it_serves_those_who_state_a_wish_after_stage_1(
    stage1: Trained, adapted: Trained, make_examples: Any
) -> None:
    method = load_method("micro")
    assert (method.stage, method.after, method.given) == ("adapt", ("micro_stage1",), "context")
    assert set(method.needs) == {"groups", "contexts"}
    assert method.routes
    assert not method.own_heads  # they are those of stage 1
    prediction = method.predict(adapted, make_examples(*arrays(5, seed=3)))
    assert prediction.statistic_SxN.shape == prediction.log_prob_SxN.shape == (DRAWS, 5)


def test_the_same_seed_gives_the_same_routers(
    problem: Problem, stage1: Trained, adapted: Trained
) -> None:
    again = load_method("micro").fit(problem, {"micro_stage1": stage1})
    jax.tree.map(np.testing.assert_array_equal, again.params, adapted.params)
