"""Stage-1 training: shuffled batches, one optimiser, the whole run as one compiled program.

Every method that learns from plain preference pairs is the same program with another model: a
single reward has K = 1, a static mixture has a router that ignores its input. The members of a
sweep are one program too: ``fit`` under ``vmap``, whose batches all members share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..configs.train import TrainConfig
from .divergence import first_bad
from .losses import mixture_nll, stage1_objective
from .matmul import product
from .model import ModelSpec, log_weights, margins
from .rows import Rows

NOT_RUN = -math.inf


class Batches(NamedTuple):
    """Row numbers of every step, (steps, B), and 1.0 where the row is real rather than filling."""

    rows: Array
    mask: Array


class Curves(NamedTuple):
    """Per epoch: mean objective over the training steps and mean NLL on the validation rows.

    ``first_loss`` is that of an epoch's first step, ``bad_step`` its first step with a loss that is
    not finite. Epochs that an early stop left out are ``NOT_RUN``.
    """

    objective: Array
    validation_nll: Array
    first_loss: Array
    bad_step: Array

    @classmethod
    def of(cls, losses_T: Array, nll: Array) -> Curves:
        """One epoch's entries from the losses of its steps."""
        return cls(jnp.mean(losses_T), nll, losses_T[0], first_bad(losses_T))


class Member(NamedTuple):
    """What may differ between the members of one program: scalars, and the heads in use."""

    learning_rate: Array | float
    entropy_weight: Array | float
    weight_decay: Array | float
    clip: Array | float
    num_heads: Array | int

    @classmethod
    def of(cls, config: TrainConfig, num_heads: int) -> Member:
        """The member that a configuration describes, with the given number of heads."""
        return cls(
            config.learning_rate,
            config.entropy_weight,
            config.weight_decay,
            config.clip,
            num_heads,
        )


def alike(config: TrainConfig) -> TrainConfig:
    """What members of one program have in common: everything but the scalars of ``Member``."""
    return replace(
        config,
        num_heads=1,
        learning_rate=1.0,
        entropy_weight=0.0,
        weight_decay=0.0,
        clip=1.0,
    )


@dataclass(frozen=True)
class Plan:
    """What the members of one program share.

    ``keep_best`` needs validation rows. The devices of a ``mesh`` share the members along its axis
    "sweep", and every batch along its axis "data".
    """

    batch_size: int
    epochs: int
    warmup: float
    keep_best: bool
    patience: int | None
    mesh: Mesh | None = None

    @classmethod
    def of(cls, config: TrainConfig, *, validated: bool, mesh: Mesh | None = None) -> Plan:
        """The plan of a configuration; without validation rows the last epoch is kept."""
        return cls(
            config.batch_size,
            config.epochs,
            config.warmup,
            config.select == "best" and validated,
            config.patience if validated else None,
            mesh,
        )

    def steps(self, count: int) -> int:
        """Optimiser steps of the whole run over ``count`` rows."""
        return self.epochs * math.ceil(count / self.batch_size)


class Progress(NamedTuple):
    """A run between two epochs. Parameters are kept transposed, see ``flip``."""

    epoch: Array
    params: Any
    optimiser: Any
    best: Any
    best_nll: Array
    stale: Array
    curves: Curves


def shuffled_batches(key: Array, count: int, batch_size: int) -> Batches:
    """A random order of ``count`` rows cut into steps; the last one is filled with masked rows."""
    steps = math.ceil(count / batch_size)
    filling = steps * batch_size - count
    order = jnp.pad(jax.random.permutation(key, count), (0, filling))
    real = jnp.pad(jnp.ones(count), (0, filling))
    shape = (steps, batch_size)
    return Batches(order.reshape(shape), real.reshape(shape))


def make_optimiser(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a configuration, for ``steps`` steps."""
    return adamw(Member.of(config, config.num_heads), config.warmup, steps)


def adamw(member: Member, warmup: float, steps: int) -> optax.GradientTransformation:
    """AdamW behind a gradient clip; linear warm-up, then cosine to zero (paper, appendix D.1)."""
    rising = min(math.ceil(warmup * steps), steps - 1)
    share = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if rising else 1.0,
        peak_value=1.0,
        warmup_steps=rising,
        decay_steps=max(steps, 1),
    )
    return optax.chain(
        optax.clip_by_global_norm(member.clip),
        optax.adamw(
            lambda step: member.learning_rate * share(step),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=member.weight_decay,
        ),
    )


def mean_nll(
    spec: ModelSpec, params: Any, rows: Rows, num_heads: Array | int | None = None
) -> Array:
    """Mean mixture NLL of a set of rows, a scalar in nats."""
    delta_NxK = margins(params["heads"], rows.delta_NxD)
    weights_NxK = log_weights(spec, params["router"], rows.router_input_NxD, num_heads)
    return jnp.mean(mixture_nll(delta_NxK, weights_NxK))


def flip(params: Any) -> Any:
    """Every matrix transposed. Gradients of (K, D) kernels are the products that CPUs do fast."""
    return jax.tree.map(jnp.transpose, params)


def begin(plan: Plan, params: Any, member: Member, steps: int) -> Progress:
    """A run before its first epoch."""
    params = flip(params)
    state = adamw(member, plan.warmup, steps).init(params)
    curves = Curves(*(jnp.full(plan.epochs, NOT_RUN) for _ in Curves._fields))
    return Progress(jnp.array(0), params, state, params, jnp.array(jnp.inf), jnp.array(0), curves)


def step(
    spec: ModelSpec,
    plan: Plan,
    member: Member,
    steps: int,
    carry: tuple[Any, Any],
    rows: Rows,
    mask_B: Array,
) -> tuple[tuple[Any, Any], Array]:
    """One optimiser step: transposed parameters and state, and the loss of the batch."""

    def batch_loss(flipped: Any) -> Array:
        params = flip(flipped)
        delta_BxK = product(rows.delta_NxD, params["heads"]["kernel"], spec.precision)
        weights_BxK = log_weights(spec, params["router"], rows.router_input_NxD, member.num_heads)
        loss_B = stage1_objective(delta_BxK, weights_BxK, member.entropy_weight)
        return jnp.sum(loss_B * mask_B) / jnp.sum(mask_B)

    params, state = carry
    loss, gradient = jax.value_and_grad(batch_loss)(params)
    updates, state = adamw(member, plan.warmup, steps).update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), loss


def end_epoch(plan: Plan, progress: Progress, carry: Any, losses_T: Array, nll: Array) -> Progress:
    """Note an epoch's curves and keep its parameters if they are the best so far."""
    params, state = carry
    number, curves = progress.epoch, progress.curves
    better = nll < progress.best_nll
    kept = better if plan.keep_best else jnp.array(True)
    return Progress(
        epoch=number + 1,
        params=params,
        optimiser=state,
        best=jax.tree.map(lambda new, old: jnp.where(kept, new, old), params, progress.best),
        best_nll=jnp.where(better, nll, progress.best_nll),
        stale=jnp.where(better, 0, progress.stale + 1),
        curves=jax.tree.map(
            lambda curve, value: curve.at[number].set(value), curves, Curves.of(losses_T, nll)
        ),
    )


def shared(plan: Plan, batch: Rows) -> Rows:
    """A batch, cut along the axis "data" of the plan's mesh."""
    if plan.mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(plan.mesh, PartitionSpec("data")))


def going(plan: Plan, progress: Progress) -> Array:
    """Whether another epoch is due."""
    due = progress.epoch < plan.epochs
    return due if plan.patience is None else due & (progress.stale < plan.patience)


def run(
    spec: ModelSpec,
    plan: Plan,
    params: Any,
    member: Member,
    train: Rows,
    validation: Rows,
    key: Array,
) -> tuple[Any, Curves]:
    """A whole run, to be compiled: the parameters that were kept, and the curves."""
    count = train.delta_NxD.shape[0]
    validated = validation.delta_NxD.shape[0] > 0
    advance = partial(step, spec, plan, member, plan.steps(count))

    def one_step(carry: tuple[Any, Any], batch: Batches) -> tuple[tuple[Any, Any], Array]:
        return advance(carry, shared(plan, train.take(batch.rows)), batch.mask)

    def epoch(progress: Progress) -> Progress:
        batches = shuffled_batches(jax.random.fold_in(key, progress.epoch), count, plan.batch_size)
        carry, losses = jax.lax.scan(one_step, (progress.params, progress.optimiser), batches)
        nll = jnp.array(jnp.nan)
        if validated:
            nll = mean_nll(spec, flip(carry[0]), validation, member.num_heads)
        return end_epoch(plan, progress, carry, losses, nll)

    begun = begin(plan, params, member, plan.steps(count))
    ended = jax.lax.while_loop(partial(going, plan), epoch, begun)
    return flip(ended.best), ended.curves


@partial(jax.jit, static_argnames=("spec", "plan"), donate_argnames=("params_S",))
def fit_members(
    spec: ModelSpec,
    plan: Plan,
    params_S: Any,
    member_S: Member,
    train: Rows,
    validation: Rows,
    key: Array,
) -> tuple[Any, Curves]:
    """``run`` for S members at once: every leaf has a leading axis S, the rows have none."""
    if spec.precision != "float32":
        train = jax.tree.map(lambda array: array.astype(jnp.bfloat16), train)
    each = partial(run, spec, plan, train=train, validation=validation, key=key)
    return jax.vmap(lambda params, member: each(params, member))(params_S, member_S)


def fit(
    spec: ModelSpec, params: Any, train: Rows, validation: Rows, config: TrainConfig, key: Array
) -> tuple[Any, Curves]:
    """Minimise the stage-1 objective over at most ``config.epochs`` passes.

    Returns the parameters of the epoch with the best validation NLL (``config.select == "best"``
    and there are validation rows) or of the last epoch, and the curves.
    """
    plan = Plan.of(config, validated=validation.delta_NxD.shape[0] > 0)
    one = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[None], (params, Member.of(config, spec.num_heads))
    )
    found = fit_members(spec, plan, *one, train, validation, key)
    return jax.tree.map(lambda leaf: leaf[0], found)
