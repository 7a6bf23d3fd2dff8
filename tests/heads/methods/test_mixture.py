"""The stage-1 methods, and that they find what was planted."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from micro_rm.heads.epochs import shuffled_batches
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Examples, Trained
from micro_rm.heads.methods.mixture import (
    SHUFFLE_STREAM,
    DivergenceError,
    fit_mixture,
    predict_routed,
)


def held_out_nll(trained: Trained, examples: Examples) -> float:
    return float(-predict_routed(trained, examples).log_prob_SxN.mean())


def log_weights(trained: Trained, examples: Examples) -> np.ndarray:
    heads = predict_routed(trained, examples).heads
    assert heads is not None
    return heads.log_weights_SxNxK


@pytest.fixture(scope="module")
def routed(planted: Any) -> Trained:
    return fit_mixture(planted.problem, 3, "linear")


@pytest.fixture(scope="module")
def static(planted: Any) -> Trained:
    return load_method("static_mixture").fit(planted.problem, {})


def test_planted_directions_are_recovered_up_to_their_order(planted: Any, routed: Trained) -> None:
    kernel_DxK = np.asarray(routed.params["heads"]["kernel"])
    unit_DxK = kernel_DxK / np.linalg.norm(kernel_DxK, axis=0)
    cosine_KxK = unit_DxK.T @ planted.directions_DxK
    best = max(
        min(cosine_KxK[k, place] for k, place in enumerate(order))
        for order in itertools.permutations(range(3))
    )
    # Chosen minus rejected fixes the sign, too.
    assert best > 0.95


def test_a_router_beats_the_static_mixture_where_the_prompt_decides(
    planted: Any, routed: Trained, static: Trained
) -> None:
    held_out = planted.problem.validation
    assert held_out_nll(routed, held_out) < held_out_nll(static, held_out) - 0.05


def test_the_prompt_decides_which_head_the_router_picks(planted: Any, routed: Trained) -> None:
    """Each planted taste gets one head and the weight on it."""
    held_out = planted.problem.validation
    taste_N = np.asarray(held_out.rows.router_input_NxD)[:, :3].argmax(axis=1)
    picked_N = log_weights(routed, held_out)[0].argmax(axis=1)
    agreement = max(
        np.mean(np.array(order)[picked_N] == taste_N) for order in itertools.permutations(range(3))
    )
    assert agreement > 0.9


def test_a_static_mixture_weighs_every_prompt_the_same(planted: Any, static: Trained) -> None:
    weights_1xNxK = np.exp(log_weights(static, planted.problem.validation))
    np.testing.assert_array_equal(weights_1xNxK, np.tile(weights_1xNxK[:, :1], (1, 1024, 1)))
    assert static.spec.router == "static"
    assert static.spec.num_heads == 3


def test_curves_have_one_value_per_epoch_and_fall(planted: Any, routed: Trained) -> None:
    assert set(routed.curves) == {"objective", "validation_nll"}
    epochs = planted.problem.train_config.epochs
    for curve in routed.curves.values():
        assert curve.shape == (epochs,)
        assert curve[-1] < curve[0]
    reached = held_out_nll(routed, planted.problem.validation)
    assert float(routed.curves["validation_nll"][-1]) == pytest.approx(reached, abs=1e-5)


def test_training_that_diverges_is_an_error_with_a_remedy(planted: Any) -> None:
    """Not a silent return of the parameters that it started from."""
    train = planted.problem.train
    rows = train.rows._replace(delta_NxD=train.rows.delta_NxD.at[0, 0].set(np.nan))
    broken = replace(train, data=rows)
    config = planted.problem.train_config
    key = jax.random.fold_in(jax.random.key(config.shuffle_seed), SHUFFLE_STREAM)
    order = shuffled_batches(
        jax.random.fold_in(key, 0), len(train.rows.delta_NxD), config.batch_size
    )
    ((step, _),) = np.argwhere((np.asarray(order.rows) == 0) & (np.asarray(order.mask) == 1))
    assert step > 0
    message = rf"3 heads diverged in epoch 1 of \d+, step {step + 1} of it .* lower train\.learning"
    with pytest.raises(DivergenceError, match=message):
        fit_mixture(replace(planted.problem, train=broken), 3, "linear")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "heads", "own", "routes"),
    [
        ("single_bt", 1, False, False),
        ("static_mixture", 3, True, False),
        ("micro_stage1", 3, True, True),
    ],
)
def test_a_method_says_whether_it_has_heads_of_its_own_and_whether_it_routes(
    planted: Any, name: str, heads: int, own: bool, routes: bool
) -> None:
    """The report looks for collapse among own heads and for deafness in routers only."""
    method, config = load_method(name), replace(planted.problem.train_config, epochs=1)
    trained = method.fit(replace(planted.problem, train_config=config), {})
    assert trained.spec.num_heads == heads
    assert (trained.spec.router != "static") == method.routes == routes
    assert method.own_heads == own == (heads > 1)
    assert (method.stage, method.rule, method.given) == ("train", "R1", "prompt")
    json.dumps(trained.settings, allow_nan=False)
