"""Principal components as heads, weighed by a few labelled pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, DrmConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.evaluation.metrics import correctness
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.drm import adapt_weights, principal_components, score_deviation
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Sides, Trained
from micro_rm.heads.rows import Rows

D, N, DRAWS, PLACES = 6, 300, 2, 12
GROUPS = ("first", "second")
METHOD = load_method("drm")


def rows(*shape: int, seed: int = 0, spread: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Chosen and rejected sides (..., D), coordinate 0 with the most variance, then 1, ..."""
    scale_D = np.arange(D, 0, -1) if spread else np.ones(D)
    sides = np.random.default_rng(seed).normal(size=(2, *shape, D)) * scale_D
    return sides[0].astype(np.float32), sides[1].astype(np.float32)


def oriented(chosen: np.ndarray, rejected: np.ndarray, taste_D: np.ndarray) -> Sides:
    """The same pairs, each with the side first that the taste likes."""
    likes = ((chosen - rejected) @ taste_D > 0)[..., None]
    return Sides(np.where(likes, chosen, rejected), np.where(likes, rejected, chosen))


def as_rows(sides: Sides) -> Rows:
    delta = jnp.asarray(sides.chosen_NxD - sides.rejected_NxD)
    return Rows(delta, jnp.zeros_like(delta))


def examples(sides: Sides, group_N: np.ndarray) -> Examples:
    return Examples(
        as_rows(sides), group_N, group_N, group_N, np.zeros(len(group_N)), lambda: sides
    )


def budget_of(sides: Sides, mask_SxB: np.ndarray) -> Budget:
    places = mask_SxB.shape[1] // len(GROUPS)
    return Budget(
        as_rows(sides),
        np.repeat(np.arange(len(GROUPS)), places),
        np.zeros(mask_SxB.shape, np.int64),
        mask_SxB,
        lambda: sides,
    )


def make_budget(places: int = PLACES) -> Budget:
    """The first group likes coordinate 0, the second dislikes coordinate 1."""
    chosen, rejected = rows(DRAWS, len(GROUPS), places, seed=1)
    tastes = np.eye(D)[0], -np.eye(D)[1]
    parts = [oriented(chosen[:, g], rejected[:, g], taste) for g, taste in enumerate(tastes)]
    sides = Sides(*(np.concatenate(side, axis=1) for side in zip(*parts, strict=True)))
    return budget_of(sides, np.ones((DRAWS, len(GROUPS) * places), np.float32))


def make_problem(budget: Budget, **settings: Any) -> Problem:
    nobody = examples(Sides(*rows(N)), np.full(N, NO_LABEL))
    return Problem(
        width=D,
        train=nobody,
        validation=nobody,
        train_config=TrainConfig(),
        adapt_config=AdaptConfig(),
        baselines=BaselinesConfig(drm=DrmConfig(**settings)),
        key=jax.random.key(0),
        groups=GROUPS,
        budget=budget,
    )


def fit(budget: Budget, **settings: Any) -> Trained:
    return METHOD.fit(make_problem(budget, **settings), {})


@pytest.fixture(scope="module")
def fitted() -> Trained:
    return fit(make_budget())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 8), count=st.integers(1, 10))
def test_components_are_orthonormal_ordered_and_signed(seed: int, width: int, count: int) -> None:
    rows_NxD = np.random.default_rng(seed).normal(size=(40, width))
    moment_DxD = rows_NxD.T @ rows_NxD / 40
    component_DxK = principal_components(moment_DxD, count)
    kept = min(count, width)
    assert component_DxK.shape == (width, kept)
    np.testing.assert_allclose(component_DxK.T @ component_DxK, np.eye(kept), atol=1e-10)
    variance_K = np.einsum("dk,de,ek->k", component_DxK, moment_DxD, component_DxK)
    np.testing.assert_allclose(variance_K, np.linalg.eigvalsh(moment_DxD)[::-1][:kept], atol=1e-10)
    largest_K = np.abs(component_DxK).argmax(axis=0)
    assert (component_DxK[largest_K, np.arange(kept)] > 0).all()


def test_directions_without_variance_are_left_out() -> None:
    assert principal_components(np.diag([3.0, 0.0, 1.0, 1e-13]), 4).shape == (4, 2)
    assert principal_components(np.zeros((3, 3)), 4).shape == (3, 1)


def test_centring_removes_the_shared_preference() -> None:
    """The mean difference leads the components if it stays in."""
    problem = make_problem(make_budget(), components=1)
    shifted = problem.train.rows.delta_NxD + 50.0 * jnp.eye(D)[5][None]
    problem = replace(
        problem, train=replace(problem.train, data=Rows(shifted, jnp.zeros_like(shifted)))
    )
    centred = METHOD.fit(problem, {}).params["component"][:, 0]
    plain = replace(problem, baselines=BaselinesConfig(drm=DrmConfig(components=1, centred=False)))
    uncentred = METHOD.fit(plain, {}).params["component"][:, 0]
    assert (np.abs(centred).argmax(), np.abs(uncentred).argmax()) == (0, 5)


def test_the_deviation_divides_by_n_minus_one() -> None:
    scores_nx1 = np.array([[1.0], [2.0], [4.0], [0.0]])
    assert score_deviation(scores_nx1, np.ones(4))[0] == pytest.approx(1.7078251, abs=1e-7)
    # The mean of three times 0.1 is not 0.1 in floating point; that is no deviation.
    assert score_deviation(np.full((3, 1), 0.1), np.ones(3))[0] == 1.0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 8), temperature=st.floats(0.2, 20))
def test_the_share_of_a_direction_is_the_sigmoid_of_its_summed_z(
    seed: int, pairs: int, temperature: float
) -> None:
    chosen_nxK, rejected_nxK = np.random.default_rng(seed).normal(size=(2, pairs, 3))
    adapted = adapt_weights(chosen_nxK, rejected_nxK, np.ones(pairs), temperature)
    plus_K, minus_K = np.split(adapted.weight_x2K, 2)
    deviation_K = np.concatenate([chosen_nxK, rejected_nxK]).std(axis=0, ddof=1)
    np.testing.assert_allclose(adapted.deviation_xK, deviation_K, rtol=1e-12)
    z_K = ((chosen_nxK - rejected_nxK) / deviation_K).sum(axis=0)
    np.testing.assert_allclose(np.log(plus_K / minus_K), z_K / temperature, atol=1e-9)
    np.testing.assert_allclose(
        plus_K / (plus_K + minus_K), 1 / (1 + np.exp(-z_K / temperature)), atol=1e-12
    )
    loss_K = np.logaddexp(0, -(chosen_nxK - rejected_nxK) / deviation_K).sum(axis=0)
    odds_K = np.exp(-loss_K / temperature)
    np.testing.assert_allclose(plus_K / plus_K.sum(), odds_K / odds_K.sum(), rtol=1e-9)
    assert adapted.weight_x2K.sum() == pytest.approx(1.0)


def test_opposite_directions_have_accuracies_that_sum_to_one(fitted: Trained) -> None:
    chosen, rejected = rows(N, seed=9)
    chosen[:30] = rejected[:30]  # ties
    test = examples(Sides(chosen, rejected), np.zeros(N, np.int64))
    heads = fitted.params["weight"].shape[-1]
    statistic_2KxN = np.concatenate(
        [
            METHOD.predict(replace(fitted, params={**fitted.params, "weight": only}), test)[0][:1]
            for only in np.eye(heads)[:, None, None, :]
        ]
    )
    wins_2K = (statistic_2KxN > 0).mean(axis=1)
    plus_K, minus_K = np.split(wins_2K, 2)
    np.testing.assert_allclose(plus_K + minus_K, 1 - 30 / N)
    assert (np.abs(plus_K - 0.45) < 0.1).all()


def test_every_group_is_answered_by_its_own_taste(fitted: Trained) -> None:
    chosen, rejected = rows(N, seed=5)
    for group, taste_D in enumerate((np.eye(D)[0], -np.eye(D)[1])):
        test = examples(oriented(chosen, rejected, taste_D), np.full(N, group))
        prediction = METHOD.predict(fitted, test)
        assert prediction.statistic_SxN.shape == (DRAWS, N)
        assert prediction.heads is None
        assert (correctness(prediction.statistic_SxN).mean(axis=1) > 0.8).all()


def test_the_prediction_is_the_weighted_sum_of_z_scores(fitted: Trained) -> None:
    """Written out for one draw and group, with both directions of every component."""
    budget = make_budget()
    sides = budget.load_sides()
    component_DxK = fitted.params["component"].astype(np.float64)
    head_Dx2K = np.hstack([component_DxK, -component_DxK])
    draw, group = 1, 1
    places = budget.group_B == group
    chosen, rejected = (side[draw, places] @ head_Dx2K for side in sides)
    deviation_2K = np.concatenate([chosen, rejected]).std(axis=0, ddof=1)
    loss_2K = np.log1p(np.exp(-(chosen - rejected) / deviation_2K)).sum(axis=0)
    weight_2K = np.exp(-loss_2K) / np.exp(-loss_2K).sum()

    test_sides = Sides(*rows(N, seed=6))
    scores = (side @ head_Dx2K / deviation_2K for side in test_sides)
    expected_N = np.subtract(*scores) @ weight_2K
    test = examples(test_sides, np.full(N, group))
    found_N = METHOD.predict(fitted, test).statistic_SxN[draw]
    np.testing.assert_allclose(found_N, expected_N, rtol=1e-4, atol=1e-5)


def test_rows_of_no_group_are_answered_by_the_pairs_of_all(fitted: Trained) -> None:
    """As if all labelled rows of the draw were one group's."""
    budget = make_budget()
    test = examples(Sides(*rows(N, seed=7)), np.full(N, NO_LABEL))
    found = METHOD.predict(fitted, test).statistic_SxN
    one_group = replace(budget, group_B=np.zeros_like(budget.group_B))
    pooled = METHOD.fit(replace(make_problem(one_group), groups=("everybody",)), {})
    everybody = replace(test, group_N=np.zeros(N, np.int64))
    np.testing.assert_allclose(
        found, METHOD.predict(pooled, everybody).statistic_SxN, rtol=1e-5, atol=1e-6
    )


def test_places_without_a_row_do_not_count() -> None:
    budget = make_budget()
    sides, mask_SxB = budget.load_sides(), budget.mask_SxB.copy()
    kept = np.arange(2 * PLACES) % PLACES < 5
    mask_SxB[:, ~kept] = 0.0
    noise = [
        np.where(kept[None, :, None], side, value)
        for side, value in zip(sides, (1e3, -1e3), strict=True)
    ]
    short = [side[:, kept] for side in sides]
    masked = fit(budget_of(Sides(*noise), mask_SxB))
    expected = fit(budget_of(Sides(*short), np.ones((DRAWS, 10), np.float32)))
    for name in ("weight", "deviation"):
        np.testing.assert_allclose(masked.params[name], expected.params[name], rtol=1e-5)
    # And the setting that takes the first rows of every group takes the same ones.
    first = fit(budget, rows=5)
    np.testing.assert_allclose(first.params["weight"], expected.params["weight"], rtol=1e-5)


def test_a_group_without_a_row_gets_the_answer_of_all() -> None:
    budget = make_budget()
    mask_SxB = budget.mask_SxB.copy()
    mask_SxB[0, PLACES:] = 0.0
    weight_SxGx2K = fit(replace(budget, mask_SxB=mask_SxB)).params["weight"]
    np.testing.assert_array_equal(weight_SxGx2K[0, 1], weight_SxGx2K[0, 2])
    assert np.abs(weight_SxGx2K[1, 1] - weight_SxGx2K[1, 2]).max() > 1e-3


@pytest.mark.parametrize("places, settings", [(0, {}), (PLACES, {"rows": 0})])
def test_without_labelled_rows_everything_is_a_tie(places: int, settings: dict) -> None:
    trained = fit(make_budget(places), **settings)
    group_N = np.arange(N) % 3 - 1
    prediction = METHOD.predict(trained, examples(Sides(*rows(N, seed=8)), group_N))
    assert prediction.statistic_SxN.shape == (DRAWS, N)
    np.testing.assert_array_equal(correctness(prediction.statistic_SxN), 0.5)
    np.testing.assert_allclose(prediction.log_prob_SxN, np.log(0.5))


def test_settings_say_what_was_kept(fitted: Trained) -> None:
    assert fitted.settings["components"] == D
    assert fitted.settings["explained_variance"] == pytest.approx(1.0)
    two = fit(make_budget(), components=2)
    assert two.params["component"].shape == (D, 2)
    assert 0.5 < two.settings["explained_variance"] < 0.8
