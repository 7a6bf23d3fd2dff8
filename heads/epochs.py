"""The epoch loop: how every method that takes optimiser steps is trained.

A method gives the loop its loss, its optimiser and the batches of an epoch. The loop takes the
steps (``lax.scan``), asks for the validation NLL, keeps the best parameters, stops early and notes
the curves. The whole loop is one ``lax.while_loop``, so a run compiles to one program, and ``vmap``
over it trains many models at once. ``streaming`` drives the same pieces from Python, because its
rows do not fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .divergence import first_bad

# Marks the epochs of a curve that an early stop left out.
NOT_RUN = -math.inf

# (parameters, what is fixed for the epoch, one batch) -> loss of the batch, and further scalars by
# name whose mean over the epoch becomes a curve (usually none).
StepLoss = Callable[[Any, Any, Any], tuple[Array, dict[str, Array]]]
# (parameters, epoch) -> what is fixed for the epoch, and its batches: leaves with a leading axis T.
PlanEpoch = Callable[[Any, Array], tuple[Any, Any]]
StepCarry = tuple[Any, Any]  # parameters and optimiser state


class Batches(NamedTuple):
    """Row numbers of every step, (T, B), and 1.0 where a row is real rather than padding."""

    rows: Array
    mask: Array


class Curves(NamedTuple):
    """Per epoch (E,): mean loss of the training steps, and mean NLL of the validation rows.

    ``first_loss`` is the loss of an epoch's first step, ``bad_step`` its first step whose loss is
    not finite. ``metrics`` are curves of a method's own. Epochs that an early stop left out are
    ``NOT_RUN``.
    """

    objective: Array
    validation_nll: Array
    first_loss: Array
    bad_step: Array
    metrics: dict[str, Array]


class Stopping(NamedTuple):
    """How many epochs to run and which parameters to keep.

    ``keep_best`` keeps those of the epoch with the smallest validation NLL instead of the last
    ones; ``patience`` ends a run after so many epochs without a smaller one.
    """

    epochs: int
    keep_best: bool = False
    patience: int | None = None


class EpochCarry(NamedTuple):
    """Carry of the epoch loop.

    ``best`` is None unless the best parameters are kept, so that no second copy takes memory.
    ``stale`` counts epochs since the validation NLL last fell.
    """

    epoch: Array
    params: Any
    optimiser: Any
    best: Any
    best_nll: Array
    stale: Array
    curves: Curves

    @property
    def kept(self) -> Any:
        """The parameters that the run returns."""
        return self.params if self.best is None else self.best


def shuffled_batches(key: Array, count: int, batch_size: int) -> Batches:
    """A random order of ``count`` rows cut into steps; the last one is padded with masked rows."""
    steps = math.ceil(count / batch_size)
    padding = steps * batch_size - count
    order = jnp.pad(jax.random.permutation(key, count), (0, padding))
    real = jnp.pad(jnp.ones(count), (0, padding))
    shape = (steps, batch_size)
    return Batches(order.reshape(shape), real.reshape(shape))


def shuffle_rows(key: Array, count: int, batch_size: int) -> PlanEpoch:
    """Plan of an epoch over ``count`` rows in an order of its own; nothing is fixed for it."""

    def plan_epoch(_params: Any, epoch: Array) -> tuple[None, Batches]:
        return None, shuffled_batches(jax.random.fold_in(key, epoch), count, batch_size)

    return plan_epoch


def begin(
    stopping: Stopping,
    params: Any,
    optimiser: optax.GradientTransformation,
    metrics: tuple[str, ...] = (),
) -> EpochCarry:
    """The carry before the first epoch."""

    def empty() -> Array:
        return jnp.full(stopping.epochs, NOT_RUN)

    return EpochCarry(
        epoch=jnp.array(0),
        params=params,
        optimiser=optimiser.init(params),
        best=params if stopping.keep_best else None,
        best_nll=jnp.array(jnp.inf),
        stale=jnp.array(0),
        curves=Curves(empty(), empty(), empty(), empty(), {name: empty() for name in metrics}),
    )


def take_step(
    optimiser: optax.GradientTransformation,
    loss: StepLoss,
    fixed: Any,
    carry: StepCarry,
    batch: Any,
) -> tuple[StepCarry, tuple[Array, dict[str, Array]]]:
    """One optimiser step: new parameters and state; the loss and the metrics of the batch."""
    params, state = carry
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, fixed, batch)
    updates, state = optimiser.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), (value, metrics)


def end_epoch(
    stopping: Stopping,
    carry: EpochCarry,
    stepped: StepCarry,
    losses_T: Array,
    metrics_T: dict[str, Array],
    nll: Array,
) -> EpochCarry:
    """Note an epoch's curves, and keep its parameters if they are the best so far."""
    params, state = stepped
    # A NaN is never better: without validation rows nothing is kept as best.
    better = nll < carry.best_nll
    best = carry.best
    if stopping.keep_best:
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
    means = {name: jnp.mean(values_T) for name, values_T in metrics_T.items()}
    entries = Curves(jnp.mean(losses_T), nll, losses_T[0], first_bad(losses_T), means)
    return EpochCarry(
        epoch=carry.epoch + 1,
        params=params,
        optimiser=state,
        best=best,
        best_nll=jnp.where(better, nll, carry.best_nll),
        stale=jnp.where(better, 0, carry.stale + 1),
        curves=jax.tree.map(
            lambda curve_E, entry: curve_E.at[carry.epoch].set(entry), carry.curves, entries
        ),
    )


def should_continue(stopping: Stopping, carry: EpochCarry) -> Array:
    """Whether another epoch is due."""
    due = carry.epoch < stopping.epochs
    return due if stopping.patience is None else due & (carry.stale < stopping.patience)


def run_epochs(
    stopping: Stopping,
    params: Any,
    optimiser: optax.GradientTransformation,
    loss: StepLoss,
    plan_epoch: PlanEpoch,
    validate: Callable[[Any], Array] | None = None,
    metrics: tuple[str, ...] = (),
) -> tuple[Any, Curves]:
    """Train from ``params``; returns the parameters that were kept, and the curves.

    Args:
        stopping: How many epochs, and what is kept.
        params: Where training starts.
        optimiser: Any optax transformation; its state lives through all epochs.
        loss: The loss of one batch, which is differentiated.
        plan_epoch: What is fixed for an epoch, such as targets, and its batches; see
            ``shuffle_rows``.
        validate: Mean NLL of the validation rows in nats, a scalar; None without such rows.
        metrics: Names of the further scalars that ``loss`` returns.
    """

    def epoch(carry: EpochCarry) -> EpochCarry:
        fixed, batches = plan_epoch(carry.params, carry.epoch)
        stepped, (losses_T, metrics_T) = jax.lax.scan(
            partial(take_step, optimiser, loss, fixed), (carry.params, carry.optimiser), batches
        )
        nll = jnp.array(jnp.nan) if validate is None else validate(stepped[0])
        return end_epoch(stopping, carry, stepped, losses_T, metrics_T, nll)

    ended = jax.lax.while_loop(
        partial(should_continue, stopping), epoch, begin(stopping, params, optimiser, metrics)
    )
    return ended.kept, ended.curves
