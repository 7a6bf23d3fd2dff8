"""The gate of ``armo_style`` by itself: its loss, its start, and how it is fitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.baselines import ArmoConfig
from micro_rm.heads.evaluation.metrics import log_sigmoid
from micro_rm.heads.methods.armo_style import (
    GateRows,
    fit_gate,
    gate_loss,
    init_gate,
    log_gate,
    start_scale,
)

D, A = 8, 3
CONFIG = ArmoConfig(hidden=16, steps=150, batch_size=128, learning_rate=1e-2)


def gate(attributes: int = A, seed: int = 0, log_scale: float = 0.3) -> Any:
    layers = init_gate(D, 16, attributes, jax.random.key(seed))
    return {"layers": layers, "log_scale": jnp.array([log_scale])}


def gate_rows(attributes: int = A, count: int = 40, seed: int = 0) -> GateRows:
    rng = np.random.default_rng(seed)
    return GateRows(
        jnp.asarray(rng.normal(size=(count, attributes)), jnp.float32),
        jnp.asarray(rng.normal(size=(count, D)), jnp.float32),
    )


NOISE, SHORT = gate_rows(count=30), replace(CONFIG, steps=51, batch_size=30)


def test_one_attribute_is_bradley_terry_on_its_score() -> None:
    rows = gate_rows(attributes=1)
    expected = -log_sigmoid(np.exp(0.3) * np.asarray(rows.delta_NxA[:, 0])).mean()
    assert float(gate_loss(gate(1), rows, CONFIG)) == pytest.approx(expected, rel=1e-5)


def test_an_equal_gate_is_bradley_terry_on_the_mean_score() -> None:
    rows, equal = gate_rows(), gate()
    equal["layers"]["output"] = jax.tree.map(jnp.zeros_like, equal["layers"]["output"])
    expected = -log_sigmoid(np.exp(0.3) * np.asarray(rows.delta_NxA).mean(axis=1)).mean()
    assert float(gate_loss(equal, rows, CONFIG)) == pytest.approx(expected, rel=1e-5)


def test_the_temperature_divides_the_logits() -> None:
    inputs = gate_rows().gate_input_NxD
    sharp, flat = (log_gate(gate()["layers"], inputs, t) for t in (1.0, 10.0))
    differences = (sharp - sharp[:, :1]), 10 * (flat - flat[:, :1])
    np.testing.assert_allclose(*differences, atol=1e-4)


def test_dropout_needs_a_key_and_keeps_the_mean() -> None:
    """Prediction has none: the same weights every time, whatever the rate."""
    layers, inputs = gate()["layers"], gate_rows(count=4).gate_input_NxD
    plain = log_gate(layers, inputs, 1.0)
    np.testing.assert_array_equal(plain, log_gate(layers, inputs, 1.0, 0.5))
    np.testing.assert_array_equal(plain, log_gate(layers, inputs, 1.0, 0.0, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 1000)
    dropped = jax.vmap(lambda key: log_gate(layers, inputs, 1.0, 0.1, key))(keys)
    assert float(jnp.abs(dropped - plain[None]).max()) > 0.01
    relative = jnp.mean(dropped - dropped[..., :1], axis=0)
    np.testing.assert_allclose(relative, plain - plain[:, :1], atol=0.02)


def test_the_scale_starts_where_equal_weights_fit_best() -> None:
    rng = np.random.default_rng(3)
    delta_NxA = rng.normal(size=(4000, A))
    wins_N = rng.random(4000) < 1 / (1 + np.exp(-5 * delta_NxA.mean(axis=1)))
    delta_NxA = np.where(wins_N[:, None], delta_NxA, -delta_NxA)
    assert start_scale(delta_NxA) == pytest.approx(5.0, rel=0.1)
    assert start_scale(-delta_NxA) == 1.0


@pytest.mark.long
def test_the_gate_of_the_best_check_is_kept() -> None:
    """On noise, training only makes the validation loss worse; the last gate is not the best."""
    train, validation, key = NOISE, gate_rows(count=200, seed=1), jax.random.key(0)
    best, curves = fit_gate(gate(), train, validation, SHORT, key)
    final = float(curves.validation_nll[-1])
    assert curves.objective.shape == curves.validation_nll.shape == (26,)
    reached = float(gate_loss(best, validation, SHORT))
    assert reached == pytest.approx(float(curves.validation_nll.min()), abs=1e-5)
    assert reached < final - 0.01
    # Without validation rows the same run ends at its last gate.
    last, blind = fit_gate(gate(), train, gate_rows(count=0), SHORT, key)
    np.testing.assert_allclose(blind.objective, curves.objective, rtol=1e-4)
    assert np.isnan(blind.validation_nll).all()
    assert float(gate_loss(last, validation, SHORT)) == pytest.approx(final, rel=1e-3)


@pytest.mark.long
def test_steps_beyond_the_schedule_change_nothing() -> None:
    """51 steps are 26 checks of two; the 52nd step has rate zero and no weight decay."""
    nothing, key = gate_rows(count=0), jax.random.key(0)
    found, curves = fit_gate(gate(), NOISE, nothing, SHORT, key)
    assert curves.objective.shape == (26,)
    expected, curves = fit_gate(gate(), NOISE, nothing, SHORT, key, checks=51)
    assert curves.objective.shape == (51,)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_pairs_that_say_nothing_change_nothing() -> None:
    """Their gradient is zero, and there is no weight decay."""
    silent, nothing = NOISE._replace(delta_NxA=0 * NOISE.delta_NxA), gate_rows(count=0)
    found, _ = fit_gate(gate(), silent, nothing, SHORT, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, found, gate())
