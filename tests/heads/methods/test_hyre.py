"""HyRe on the heads of other methods: weights per draw and group from the labelled rows alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, HyreConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import hyre, load_method
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Trained
from micro_rm.heads.rows import Rows

D, K, GROUPS, PLACES, DRAWS = 4, 4, 3, 6, 2
# Head k is coordinate k, group g always prefers more of coordinate g.
HEADS = Trained({"heads": {"kernel": np.eye(D, dtype=np.float32)}, "router": {"x": np.ones(1)}})


def examples(delta_NxD: np.ndarray, group_N: Any) -> Examples:
    none_N = np.full(len(delta_NxD), NO_LABEL)
    rows = Rows(jnp.asarray(delta_NxD, jnp.float32), jnp.zeros((len(delta_NxD), 1)))
    return Examples(rows, none_N, none_N, np.asarray(group_N), np.zeros(len(none_N)), lambda: None)


def liked_by(group_N: np.ndarray, seed: int) -> np.ndarray:
    delta_NxD = np.random.default_rng(seed).normal(size=(group_N.size, D))
    own_N = np.take_along_axis(delta_NxD, group_N[:, None], axis=1)
    return np.where(own_N > 0, delta_NxD, -delta_NxD)


def problem(places: int = PLACES, **options: Any) -> Problem:
    group_B = np.repeat(np.arange(GROUPS), places)
    delta = np.stack([liked_by(group_B, seed) for seed in range(DRAWS)]).astype(np.float32)
    shape = (DRAWS, group_B.size)
    budget = Budget(
        Rows(jnp.asarray(delta), jnp.zeros((*shape, 1))),
        group_B,
        np.zeros(shape, int),
        np.ones(shape, np.float32),
        lambda: None,
    )
    nobody = examples(np.zeros((0, D)), np.zeros(0, int))
    return Problem(
        D,
        nobody,
        nobody,
        TrainConfig(num_heads=K),
        AdaptConfig(),
        BaselinesConfig(hyre=HyreConfig(**options)),
        jax.random.key(0),
        ("a", "b", "c"),
        budget,
    )


def fit(problem: Problem) -> Trained:
    return load_method("micro_hyre").fit(problem, {"micro_stage1": HEADS})


def sum_of_nll(delta_nxD: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -np.asarray(delta_nxD, np.float64)).sum(axis=0)


@pytest.mark.parametrize("rows", [4, None, 99])
def test_weights_come_from_the_first_rows_of_each_group_and_draw(rows: int | None) -> None:
    setup = problem(rows=rows, temperature=0.5)
    found = np.exp(fit(setup).params["log_weights"])
    assert found.shape == (DRAWS, GROUPS + 1, K)
    delta = np.asarray(setup.budget.rows.delta_NxD).reshape(DRAWS, GROUPS, PLACES, D)
    for s, g in np.ndindex(DRAWS, GROUPS):
        w_K = np.exp(-sum_of_nll(delta[s, g, : PLACES if rows is None else rows]) / 0.5)
        np.testing.assert_allclose(found[s, g], w_K / w_K.sum(), atol=1e-5)
    np.testing.assert_allclose(found[:, GROUPS], 1 / K, atol=1e-6)


@pytest.mark.parametrize("options", [{"places": 0}, {"rows": 0}, {"rows": 0, "query": "bald"}])
def test_without_rows_the_heads_are_averaged(options: dict[str, Any]) -> None:
    found = fit(problem(**options)).params["log_weights"]
    assert found.shape == (DRAWS, GROUPS + 1, K)
    np.testing.assert_allclose(np.exp(found), 1 / K, atol=1e-6)


def test_filling_places_count_nothing() -> None:
    setup = problem(rows=None)
    assert setup.budget is not None
    mask = np.ones((DRAWS, GROUPS * PLACES), np.float32)
    mask[0, 3:PLACES] = 0
    setup = replace(setup, budget=replace(setup.budget, mask_SxB=mask))
    w_K = np.exp(-sum_of_nll(setup.budget.rows.delta_NxD[0, :3]))
    found_K = np.exp(fit(setup).params["log_weights"][0, 0])
    np.testing.assert_allclose(found_K, w_K / w_K.sum(), atol=1e-5)


def test_a_group_is_answered_by_the_head_that_agrees_with_it() -> None:
    trained = fit(problem(rows=None, temperature=0.2))
    group_N = np.tile(np.arange(GROUPS), 200)
    delta_NxD = liked_by(group_N, seed=9)
    known = hyre.MICRO_HYRE.predict(trained, examples(delta_NxD, group_N))
    strangers = hyre.MICRO_HYRE.predict(
        trained, examples(delta_NxD, np.full_like(group_N, NO_LABEL))
    )
    assert known.statistic_SxN.shape == (DRAWS, group_N.size)
    assert (known.statistic_SxN > 0).mean() > 0.85
    # R2 under equal weights: the mean margin.
    mean_N = delta_NxD.mean(axis=1)
    np.testing.assert_allclose(strangers.statistic_SxN, np.stack([mean_N] * 2), atol=1e-5)
    np.testing.assert_allclose(strangers.log_prob_SxN[0], -np.logaddexp(0, -mean_N), atol=1e-5)


@pytest.mark.long
def test_an_active_query_looks_beyond_the_first_rows() -> None:
    """Two rows that all heads call alike come first; the asking variant passes them over."""
    setup = problem(rows=2, query="bald")
    assert setup.budget is not None
    delta = np.array(setup.budget.rows.delta_NxD).reshape(DRAWS, GROUPS, PLACES, D)
    delta[:, :, :2] = 9.0
    rows = setup.budget.rows._replace(delta_NxD=jnp.asarray(delta.reshape(DRAWS, -1, D)))
    setup = replace(setup, budget=replace(setup.budget, rows=rows))
    drawn = replace(setup, baselines=BaselinesConfig(hyre=HyreConfig(rows=2)))
    np.testing.assert_allclose(np.exp(fit(drawn).params["log_weights"]), 1 / K, atol=1e-6)
    asked = np.exp(fit(setup).params["log_weights"][:, :GROUPS])
    assert np.abs(asked - 1 / K).max(axis=-1).min() > 0.02


@pytest.mark.parametrize(
    ("method", "source"),
    [
        (hyre.HYRE, "shared_base"),
        (hyre.HYRE_ANCHORED, "shared_base_anchored"),
        (hyre.MICRO_HYRE, "micro_stage1"),
    ],
)
def test_heads_are_those_of_the_source_untouched(method: Any, source: str) -> None:
    assert (method.after, method.needs, method.given) == ((source,), ("groups",), "group")
    trained = method.fit(problem(rows=3, query="bald", loss="errors"), {source: HEADS})
    assert set(trained.params) == {"heads", "log_weights"}
    np.testing.assert_array_equal(trained.params["heads"]["kernel"], np.eye(D))
    stated = json.loads(json.dumps(trained.settings))
    assert 1 < stated.pop("effective_heads") <= K
    assert stated == {
        "rule": "R2",
        "heads_of": source,
        "rows": 3,
        "loss": "errors",
        "temperature": 1.0,
        "query": "bald",
    }
