"""Ridge heads under a gate on the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import ArmoConfig, BaselinesConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.debias import fit_debias, spearman
from micro_rm.heads.evaluation.metrics import correctness, log_sigmoid
from micro_rm.heads.methods import armo_style, load_method
from micro_rm.heads.methods.armo_style import (
    GateRows,
    fit_gate,
    fit_heads,
    head_kernel,
    scaled_ratings,
)
from micro_rm.heads.methods.interface import NO_LABEL, Examples, Problem, Ratings, Sides, Trained
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.rows import Rows

D, A, PROMPTS, VERBOSITY = 8, 3, 600, 2
NAMES = ("warm", "dry", "verbosity")
CONFIG = ArmoConfig(hidden=16, steps=150, batch_size=128, learning_rate=1e-2)
METHOD = load_method("armo_style")


def no_sides() -> Sides:
    raise AssertionError("the method needs differences only")


def examples(delta_NxD: np.ndarray, prompt_NxD: np.ndarray) -> Examples:
    none_N = np.full(len(delta_NxD), NO_LABEL)
    rows = Rows(jnp.asarray(delta_NxD, jnp.float32), jnp.asarray(prompt_NxD, jnp.float32))
    return Examples(rows, none_N, none_N, none_N, np.zeros(len(delta_NxD)), no_sides)


def make_problem(config: ArmoConfig = CONFIG, held_out: int = 100) -> tuple[Problem, Examples]:
    """``warm`` and ``dry`` are one coordinate each plus length; the prompt's sign picks the one."""
    rng = np.random.default_rng(0)
    first, second, prompt = rng.normal(size=(3, PROMPTS, D))
    rating_heads = np.zeros((D, A))
    rating_heads[0, 0] = rating_heads[1, 1] = 1.0
    rating_heads[2] = 0.5, 0.5, 1.0

    taste_N = np.where(prompt[:, 0] > 0, 0, 1)
    wins_N = (first - second)[np.arange(PROMPTS), taste_N] > 0
    delta = np.where(wins_N[:, None], first - second, second - first)
    score = np.concatenate([first, second]) @ rating_heads
    rating = np.clip(np.round(1.2 * score + 2), 0, 4)
    rating[rng.random(rating.shape) < 0.1] = np.nan
    test, validation = np.arange(PROMPTS) < 200, np.arange(PROMPTS) >= PROMPTS - held_out
    kept = ~np.concatenate([test, test])
    ratings = Ratings(
        np.concatenate([first, second])[kept].astype(np.float32),
        rating[kept],
        np.concatenate([validation, validation])[kept],
        NAMES,
    )
    train = ~test & ~validation
    problem = Problem(
        width=D,
        train=examples(delta[train], prompt[train]),
        validation=examples(delta[validation], prompt[validation]),
        train_config=TrainConfig(),
        adapt_config=AdaptConfig(),
        baselines=BaselinesConfig(armo=config),
        key=jax.random.key(0),
        load_ratings=lambda: ratings,
    )
    return problem, examples(delta[test], prompt[test])


def make_ratings() -> Ratings:
    load = make_problem()[0].load_ratings
    assert load is not None
    return load()


@pytest.fixture(scope="module")
def fitted() -> tuple[Trained, Examples, Problem]:
    problem, test = make_problem()
    return METHOD.fit(problem, {}), test, problem


def test_ratings_from_0_to_4_become_tenths() -> None:
    rating_MxA = np.array([[0.0], [1], [2], [3], [4], [np.nan], [6]])
    train_M = np.array([True] * 6 + [False])
    scaled = scaled_ratings(rating_MxA, train_M)[:, 0]
    np.testing.assert_allclose(scaled[:5], [0.1, 0.3, 0.5, 0.7, 0.9])
    assert np.isnan(scaled[5])
    # Extremes are those of the training rows alone.
    assert scaled[6] == pytest.approx(1.3)
    np.testing.assert_allclose(scaled_ratings(rating_MxA + 1, train_M)[:, 0], scaled)
    # And without any, an attribute stays unknown.
    assert np.isnan(scaled_ratings(np.full((3, 1), np.nan), np.ones(3, bool))).all()


def test_the_prompt_decides_which_attribute_counts(fitted: Any) -> None:
    """Better than any fixed weights of the same heads."""
    trained, test, _ = fitted
    prediction = METHOD.predict(trained, test)
    delta_Nx2 = prediction.heads.delta_NxK[:, :2]
    fixed = [np.array([share, 1 - share]) for share in np.linspace(0, 1, 21)]
    static = max(correctness(delta_Nx2 @ weights).mean() for weights in fixed)
    assert correctness(prediction.statistic_SxN).mean() > static + 0.08
    assert static < 0.8


def test_gate_rows_sum_to_one_over_attributes_and_vary_with_the_prompt(fitted: Any) -> None:
    """The scale is part of the margins, so that the weights are a simplex."""
    trained, test, _ = fitted
    heads = METHOD.predict(trained, test).heads
    weights_1xNxA = np.exp(heads.log_weights_SxNxK.astype(np.float64))
    assert weights_1xNxA.shape == (1, 200, A)
    np.testing.assert_allclose(weights_1xNxA.sum(axis=-1), 1.0, atol=1e-6)
    assert weights_1xNxA.std(axis=1).max() > 0.1
    scale = trained.settings["scale"]
    assert scale > 0
    expected = scale * np.asarray(test.rows.delta_NxD) @ head_kernel(trained.params)
    np.testing.assert_allclose(heads.delta_NxK, expected, rtol=1e-4, atol=1e-6)


def test_the_prediction_is_the_gated_margin(fitted: Any) -> None:
    trained, test, _ = fitted
    prediction = METHOD.predict(trained, test)
    weights_NxA = np.exp(prediction.heads.log_weights_SxNxK[0].astype(np.float64))
    expected_N = (weights_NxA * prediction.heads.delta_NxK).sum(axis=-1)
    np.testing.assert_allclose(prediction.statistic_SxN[0], expected_N, rtol=1e-6)
    np.testing.assert_allclose(prediction.log_prob_SxN[0], log_sigmoid(expected_N), rtol=1e-6)


def test_the_transform_is_used_in_prediction(fitted: Any) -> None:
    trained, test, _ = fitted
    assert trained.settings["verbosity"] == "verbosity"
    assert trained.settings["verbosity_penalty"]["verbosity"] == 1.0
    assert 0 < trained.settings["verbosity_penalty"]["warm"] < 1
    np.testing.assert_allclose(
        METHOD.predict(trained, test).heads.delta_NxK[:, VERBOSITY], 0, atol=1e-6
    )
    plain = replace(trained, params={**trained.params, "transform": np.eye(A, dtype=np.float32)})
    before, after = (METHOD.predict(t, test).statistic_SxN for t in (trained, plain))
    assert np.abs(before - after).max() > 0.1


def test_the_transform_is_used_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is trained on the margins that predict."""
    seen: list[GateRows] = []

    def record(gate: Any, train: GateRows, validation: GateRows, *rest: Any) -> Any:
        seen.extend([train, validation])
        return fit_gate(gate, train, validation, *rest)

    monkeypatch.setattr(armo_style, "fit_gate", record)
    problem, _ = make_problem(replace(CONFIG, steps=1))
    trained = METHOD.fit(problem, {})
    for rows, part in zip(seen, (problem.train, problem.validation), strict=True):
        expected = np.asarray(part.rows.delta_NxD) @ head_kernel(trained.params)
        np.testing.assert_allclose(rows.delta_NxA, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows.delta_NxA[:, VERBOSITY], 0, atol=1e-6)
        np.testing.assert_array_equal(rows.gate_input_NxD, part.rows.router_input_NxD)


@pytest.mark.parametrize("verbosity", [None, "length"])
def test_without_a_verbosity_attribute_nothing_is_freed(verbosity: str | None) -> None:
    ratings = make_ratings()
    params, settings = fit_heads(ratings, replace(CONFIG, verbosity=verbosity))
    np.testing.assert_array_equal(params["transform"], np.eye(A))
    assert settings["verbosity"] is None


def test_the_correlation_is_removed_on_the_training_responses() -> None:
    ratings = make_ratings()
    params, settings = fit_heads(ratings, CONFIG)
    score_MxA = ratings.features_MxD[~ratings.held_out_M] @ params["ridge"]
    freed_MxA = score_MxA @ params["transform"]
    for column in range(VERBOSITY):
        assert spearman(score_MxA[:, column], score_MxA[:, VERBOSITY]) > 0.2
        assert spearman(freed_MxA[:, column], score_MxA[:, VERBOSITY]) <= 0.031
    penalty_A = fit_debias(score_MxA, VERBOSITY, CONFIG.max_correlation).penalty_A
    assert settings["verbosity_penalty"] == dict(zip(NAMES, penalty_A.tolist(), strict=True))
    assert set(settings["ridge_penalty"]) == set(NAMES)


def test_the_same_seed_gives_the_same_gate(fitted: Any) -> None:
    trained, _, problem = fitted
    again = METHOD.fit(problem, {})
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)
    other = METHOD.fit(replace(problem, key=jax.random.key(1)), {})
    kernels = (t.params["gate"]["layers"]["hidden1"]["kernel"] for t in (trained, other))
    assert np.abs(np.subtract(*kernels)).max() > 0.01


@pytest.mark.long
def test_without_validation_rows_it_still_fits() -> None:
    problem, test = make_problem(replace(CONFIG, steps=1), held_out=0)
    trained = METHOD.fit(problem, {})
    assert np.isfinite(METHOD.predict(trained, test).log_prob_SxN).all()
    assert np.isnan(trained.curves["validation_loss"]).all()
    assert max(trained.settings["ridge_penalty"].values()) < 1e4


def test_training_that_diverges_is_an_error_with_a_remedy() -> None:
    problem, _ = make_problem(replace(CONFIG, steps=1))
    rows = problem.train.rows
    broken = rows._replace(router_input_NxD=rows.router_input_NxD.at[:].set(jnp.nan))
    problem = replace(problem, train=replace(problem.train, data=broken))
    with pytest.raises(DivergenceError, match=r"gate diverged .* lower baselines\.armo"):
        METHOD.fit(problem, {})
