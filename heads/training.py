"""Stage-1 training: shuffled batches, one optimiser, the whole run as one compiled scan.

Every method that learns from plain preference pairs is the same program with another model: a
single reward has K = 1, a static mixture has a router that ignores its input.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..configs.schema import TrainConfig
from .losses import mixture_nll, stage1_objective
from .model import ModelSpec, log_weights, margins

SHUFFLE_STREAM = 2


class Rows(NamedTuple):
    """Training or validation rows: chosen minus rejected, and what the router reads."""

    delta_NxD: Array
    router_input_NxD: Array


class Batches(NamedTuple):
    """Row numbers of every step, (steps, B), and 1.0 where the row is real rather than filling."""

    rows: Array
    mask: Array


class Curves(NamedTuple):
    """Per epoch: mean objective over the training steps and mean NLL on the validation rows."""

    objective: Array
    validation_nll: Array


def shuffled_batches(key: Array, count: int, batch_size: int) -> Batches:
    """A random order of ``count`` rows cut into steps; the last one is filled with masked rows."""
    steps = math.ceil(count / batch_size)
    filling = steps * batch_size - count
    order = jnp.pad(jax.random.permutation(key, count), (0, filling))
    real = jnp.pad(jnp.ones(count), (0, filling))
    shape = (steps, batch_size)
    return Batches(order.reshape(shape), real.reshape(shape))


def make_optimiser(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """AdamW behind a gradient clip; linear warm-up, then cosine to zero (paper, appendix D.1)."""
    warmup = min(math.ceil(config.warmup * steps), steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay),
    )


def mean_nll(spec: ModelSpec, params: Any, rows: Rows) -> Array:
    """Mean mixture NLL of a set of rows, a scalar in nats."""
    delta_NxK = margins(params["heads"], rows.delta_NxD)
    weights_NxK = log_weights(spec, params["router"], rows.router_input_NxD)
    return jnp.mean(mixture_nll(delta_NxK, weights_NxK))


@partial(jax.jit, static_argnames=("spec", "config"), donate_argnames=("params",))
def fit(
    spec: ModelSpec, params: Any, train: Rows, validation: Rows, config: TrainConfig, key: Array
) -> tuple[Any, Curves]:
    """Minimise the stage-1 objective over ``config.epochs`` passes.

    Returns the parameters of the epoch with the best validation NLL (``config.select == "best"``
    and there are validation rows) or of the last epoch, and the curves. ``params`` is donated.
    """
    count = train.delta_NxD.shape[0]
    steps = config.epochs * math.ceil(count / config.batch_size)
    optimiser = make_optimiser(config, steps)
    validated = validation.delta_NxD.shape[0] > 0
    choose = config.select == "best" and validated

    def batch_loss(params: Any, rows_B: Array, mask_B: Array) -> Array:
        delta_BxK = margins(params["heads"], train.delta_NxD[rows_B])
        weights_BxK = log_weights(spec, params["router"], train.router_input_NxD[rows_B])
        loss_B = stage1_objective(delta_BxK, weights_BxK, config.entropy_weight)
        return jnp.sum(loss_B * mask_B) / jnp.sum(mask_B)

    def step(carry: tuple[Any, Any], batch: Batches) -> tuple[tuple[Any, Any], Array]:
        params, state = carry
        loss, gradient = jax.value_and_grad(batch_loss)(params, batch.rows, batch.mask)
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    def epoch(carry: tuple[Any, ...], number: Array) -> tuple[tuple[Any, ...], Curves]:
        params, state, best, best_nll = carry
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE_STREAM), number)
        batches = shuffled_batches(epoch_key, count, config.batch_size)
        (params, state), losses = jax.lax.scan(step, (params, state), batches)
        nll = mean_nll(spec, params, validation) if validated else jnp.array(jnp.nan)
        better = nll < best_nll if choose else jnp.array(True)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        best_nll = jnp.where(better, nll, best_nll)
        return (params, state, best, best_nll), Curves(jnp.mean(losses), nll)

    start = (params, optimiser.init(params), params, jnp.array(jnp.inf))
    (_, _, best, _), curves = jax.lax.scan(epoch, start, jnp.arange(config.epochs))
    return best, curves
