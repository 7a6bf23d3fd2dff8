"""ArmoRM in style: ridge heads on rated attributes, freed of length, under a gate on the prompt.

Wang et al. 2024, arXiv 2406.12845; sizes and rates are those of the official code. Unlike there,
the gate's softmax runs over attributes (there it runs over the two sides of a pair, so that every
weight is one half and the gate cannot learn), the heads freed of length are the ones that the gate
is trained on and that predict, and whole prompts are held out. The scale of the simplex weights is
the exponential of what is trained: a negative one would turn every attribute over at once. It
starts where equal weights fit best, at least at the official 1: ridge scores of a pair differ by a
tenth or two, so a scale of 1 is far too small and hardly doubles in 2000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ...configs.baselines import ArmoConfig
from ..debias import fit_debias
from ..divergence import divergence
from ..epochs import Curves, Stopping, run_epochs
from ..losses import head_nll
from ..ridge import fit_ridge
from .interface import Examples, Method, Prediction, Problem, Ratings, Trained, predict_heads
from .length_only import fit_slope

LAYERS = ("hidden1", "hidden2", "hidden3", "output")
GATE_STREAM = 3
INIT_STREAM, ROWS_STREAM, DROPOUT_STREAM = 0, 1, 2
# How often a validation loss is taken during the gate's training.
CHECKS = 50


class GateRows(NamedTuple):
    """Pairs as the gate sees them: margins of the attribute heads, and its own input."""

    delta_NxA: Array
    gate_input_NxD: Array


def scaled_ratings(rating_MxA: np.ndarray, train_M: np.ndarray) -> np.ndarray:
    """(M, A) ratings in (0, 1): ``(rating - min + 1/2) / (max - min + 1)``, NaN where unknown.

    Extremes are those of the training responses; ratings from 0 to 4 become .1, .3, .5, .7, .9.
    """
    known_MxA = ~np.isnan(rating_MxA) & train_M[:, None]
    low_A = np.where(known_MxA, rating_MxA, np.inf).min(axis=0, initial=np.inf)
    high_A = np.where(known_MxA, rating_MxA, -np.inf).max(axis=0, initial=-np.inf)
    rated_A = known_MxA.any(axis=0)
    span_A = np.where(rated_A, high_A, 0.0) - np.where(rated_A, low_A, 0.0)
    return (rating_MxA - np.where(rated_A, low_A, 0.0) + 0.5) / (span_A + 1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def init_gate(width: int, hidden: int, attributes: int, key: Array) -> dict[str, Any]:
    """Four layers, kernels uniform within one over the root of their fan-in, biases zero."""
    uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    sizes = (width, *[hidden] * (len(LAYERS) - 1), attributes)
    layers = {}
    for number, name in enumerate(LAYERS):
        kernel = uniform(jax.random.fold_in(key, number), sizes[number : number + 2])
        layers[name] = {"kernel": kernel, "bias": jnp.zeros(sizes[number + 1])}
    return layers


def start_scale(delta_NxA: np.ndarray) -> float:
    """The scale at which equal weights fit the pairs best, but at least 1."""
    return max(fit_slope(np.asarray(delta_NxA, np.float64).mean(axis=1)), 1.0)


@partial(jax.jit, static_argnames=("temperature", "dropout"))
def log_gate(
    layers: Any, gate_input_NxD: Array, temperature: float, dropout: float = 0.0, key: Any = None
) -> Array:
    """(N, A) log weights ``log_softmax(logits / temperature)``; dropout only if a key is given."""
    out = gate_input_NxD
    for number, name in enumerate(LAYERS):
        out = out @ layers[name]["kernel"] + layers[name]["bias"][None]
        if name == LAYERS[-1]:
            break
        out = jax.nn.relu(out)
        if key is not None and dropout > 0:
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, out.shape)
            out = jnp.where(kept, out / (1 - dropout), 0.0)
    return jax.nn.log_softmax(out / temperature, axis=-1)


def gate_loss(gate: Any, rows: GateRows, config: ArmoConfig, key: Any = None) -> Array:
    """Mean Bradley-Terry loss of the gated reward, a scalar in nats."""
    weights_NxA = jnp.exp(
        log_gate(gate["layers"], rows.gate_input_NxD, config.temperature, config.dropout, key)
    )
    margin_N = jnp.exp(gate["log_scale"]) * jnp.sum(weights_NxA * rows.delta_NxA, axis=-1)
    return jnp.mean(head_nll(margin_N))


@partial(jax.jit, static_argnames=("config", "checks"))
def fit_gate(
    gate: Any,
    train: GateRows,
    validation: GateRows,
    config: ArmoConfig,
    key: Array,
    checks: int = CHECKS,
) -> tuple[Any, Curves]:
    """AdamW over ``config.steps`` batches drawn with replacement, cosine to zero.

    The validation loss is taken at most ``checks`` times at equal distances. Returns the gate with
    the smallest one, or the last gate if there are no validation rows, and the curves per check.
    """
    count, validated = train.delta_NxA.shape[0], validation.delta_NxA.shape[0] > 0
    every = -(-config.steps // checks)
    checks = -(-config.steps // every)
    # Steps that fill the last check come after the schedule's end: at rate zero they do nothing.
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)

    def plan_check(_gate: Any, check: Array) -> tuple[None, Array]:
        """The numbers of the steps until the next check, which seed their batches."""
        return None, check * every + jnp.arange(every)

    def loss(gate: Any, _fixed: None, step: Array) -> tuple[Array, dict[str, Array]]:
        rows_key, dropout_key = (
            jax.random.fold_in(jax.random.fold_in(key, stream), step)
            for stream in (ROWS_STREAM, DROPOUT_STREAM)
        )
        rows_B = jax.random.randint(rows_key, (config.batch_size,), 0, count)
        batch = jax.tree.map(lambda leaf: leaf[rows_B], train)
        return gate_loss(gate, batch, config, dropout_key), {}

    # An epoch of the loop is the stretch between two checks.
    return run_epochs(
        Stopping(checks, keep_best=validated),
        gate,
        optax.adamw(schedule, weight_decay=0.0),
        loss,
        plan_check,
        validate=lambda gate: gate_loss(gate, validation, config),  # NaN without rows
    )


def head_kernel(params: Mapping[str, Any]) -> np.ndarray:
    """(D, A) ridge heads freed of length."""
    return np.asarray(params["ridge"]) @ np.asarray(params["transform"])


def fit_heads(ratings: Ratings, config: ArmoConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ridge heads and the transform that frees them of length; what was chosen on the way."""
    train_M = ~ratings.held_out_M
    fitted = fit_ridge(
        ratings.features_MxD, scaled_ratings(ratings.rating_MxA, train_M), ratings.held_out_M
    )
    names = ratings.names
    verbosity = names.index(config.verbosity) if config.verbosity in names else None
    score_MxA = ratings.features_MxD[train_M] @ fitted.head_DxA.astype(np.float32)
    debias = fit_debias(score_MxA, verbosity, config.max_correlation)
    params = {
        "ridge": fitted.head_DxA.astype(np.float32),
        "transform": debias.transform_AxA.astype(np.float32),
    }
    settings = {
        "attributes": list(names),
        "verbosity": None if verbosity is None else config.verbosity,
        "ridge_penalty": dict(zip(names, fitted.penalty_A.tolist(), strict=True)),
        "verbosity_penalty": dict(zip(names, debias.penalty_A.tolist(), strict=True)),
    }
    return params, settings


def _armo_style(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    assert problem.load_ratings is not None  # the stage leaves the method out without ratings
    config, ratings = problem.baselines.armo, problem.load_ratings()
    params, settings = fit_heads(ratings, config)
    kernel_DxA = head_kernel(params)

    def rows(examples: Examples) -> GateRows:
        return GateRows(examples.rows.delta_NxD @ kernel_DxA, examples.rows.router_input_NxD)

    key = jax.random.fold_in(problem.key, GATE_STREAM)
    init_key = jax.random.fold_in(key, INIT_STREAM)
    train, validation = rows(problem.train), rows(problem.validation)
    start = {
        "layers": init_gate(problem.width, config.hidden, len(ratings.names), init_key),
        "log_scale": jnp.log(jnp.array([start_scale(np.asarray(train.delta_NxA))])),
    }
    gate, curves = fit_gate(start, train, validation, config, key)
    remedy = "lower baselines.armo.learning_rate or set train.features=standardized"
    bad = np.asarray(curves.bad_step)
    error = divergence("training the gate", bad, remedy, unit="stretch between checks")
    if error is not None:
        raise error
    params["gate"] = jax.tree.map(np.asarray, gate)
    settings |= {"temperature": config.temperature, "scale": float(np.exp(gate["log_scale"][0]))}
    kept = {"loss": curves.objective, "validation_loss": curves.validation_nll}
    return Trained(params, settings, {name: np.asarray(curve) for name, curve in kept.items()})


def _predict(trained: Trained, examples: Examples) -> Prediction:
    rows, gate = examples.rows, trained.params["gate"]
    delta_NxA = np.asarray(rows.delta_NxD) @ head_kernel(trained.params)
    weights_NxA = log_gate(
        jax.tree.map(jnp.asarray, gate["layers"]),
        rows.router_input_NxD,
        trained.settings["temperature"],
    )
    scale = np.exp(np.asarray(gate["log_scale"]))
    return predict_heads("R2", scale * delta_NxA, np.asarray(weights_NxA)[None])


ARMO_STYLE = Method(
    "armo_style",
    "ArmoRM in style: one ridge regression per rated attribute, weighed by a gate on the prompt.",
    stage="train",
    fit=_armo_style,
    predict=_predict,
    rule="R2",
    needs=("ratings",),
)
