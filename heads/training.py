"""Stage-1 training: one objective and one optimiser, the whole run as one compiled program.

Every method that learns from plain preference pairs is the same program with another model: a
single reward has K = 1, a static mixture has a router that ignores its input. The members of a
sweep are one program too: ``run`` under ``vmap``, whose batches all members share.
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
from .epochs import Batches, Curves, Stopping, run_epochs, shuffle_rows
from .losses import mixture_nll, stage1_objective
from .matmul import product
from .model import ModelSpec, log_weights, margins
from .rows import Rows


class Hyperparams(NamedTuple):
    """What may differ between the members of one program: scalars, and the heads in use."""

    learning_rate: Array | float
    entropy_weight: Array | float
    weight_decay: Array | float
    clip: Array | float
    num_heads: Array | int

    @classmethod
    def from_config(cls, config: TrainConfig, num_heads: int) -> Hyperparams:
        """The values of a configuration, with the given number of heads."""
        return cls(
            config.learning_rate,
            config.entropy_weight,
            config.weight_decay,
            config.clip,
            num_heads,
        )


def shared_settings(config: TrainConfig) -> TrainConfig:
    """What members of one program have in common: all but the scalars of ``Hyperparams``."""
    return replace(
        config,
        num_heads=1,
        learning_rate=1.0,
        entropy_weight=0.0,
        weight_decay=0.0,
        clip=1.0,
    )


@dataclass(frozen=True)
class TrainSpec:
    """Static settings of a training program, the same for all of its members.

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
    def from_config(
        cls, config: TrainConfig, *, validated: bool, mesh: Mesh | None = None
    ) -> TrainSpec:
        """The spec of a configuration; without validation rows the last epoch is kept."""
        return cls(
            config.batch_size,
            config.epochs,
            config.warmup,
            config.select == "best" and validated,
            config.patience if validated else None,
            mesh,
        )

    @property
    def stopping(self) -> Stopping:
        """What the epoch loop needs to know."""
        return Stopping(self.epochs, self.keep_best, self.patience)

    def steps(self, count: int) -> int:
        """Optimiser steps of the whole run over ``count`` rows."""
        return self.epochs * math.ceil(count / self.batch_size)


def total_steps(config: TrainConfig, count: int) -> int:
    """Optimiser steps of ``config.epochs`` passes over ``count`` rows."""
    return config.epochs * math.ceil(count / config.batch_size)


def make_optimiser(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of a configuration, for ``steps`` steps."""
    return adamw(Hyperparams.from_config(config, config.num_heads), config.warmup, steps)


def adamw(hyper: Hyperparams, warmup: float, steps: int) -> optax.GradientTransformation:
    """AdamW behind a gradient clip; linear warm-up, then cosine to zero (paper, appendix D.1)."""
    # At least one step must be left for the cosine to fall in.
    rising = min(math.ceil(warmup * steps), steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if rising else 1.0,
        peak_value=1.0,
        warmup_steps=rising,
        decay_steps=max(steps, 1),
    )
    return optax.chain(
        optax.clip_by_global_norm(hyper.clip),
        optax.adamw(
            lambda step: hyper.learning_rate * schedule(step),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=hyper.weight_decay,
        ),
    )


def mean_nll(
    spec: ModelSpec, params: Any, rows: Rows, num_heads: Array | int | None = None
) -> Array:
    """Mean mixture NLL of a set of rows, a scalar in nats."""
    delta_NxK = margins(params["heads"], rows.delta_NxD)
    weights_NxK = log_weights(spec, params["router"], rows.router_input_NxD, num_heads)
    return jnp.mean(mixture_nll(delta_NxK, weights_NxK))


def transpose_params(params: Any) -> Any:
    """Every matrix transposed. Gradients of (K, D) kernels are the products that CPUs do fast."""
    return jax.tree.map(jnp.transpose, params)


def batch_loss(
    spec: ModelSpec, hyper: Hyperparams, transposed: Any, rows: Rows, mask_B: Array
) -> tuple[Array, dict[str, Array]]:
    """Mean stage-1 objective of the real rows of a batch, under transposed parameters."""
    params = transpose_params(transposed)
    delta_BxK = product(rows.delta_NxD, params["heads"]["kernel"], spec.precision)
    weights_BxK = log_weights(spec, params["router"], rows.router_input_NxD, hyper.num_heads)
    loss_B = stage1_objective(delta_BxK, weights_BxK, hyper.entropy_weight)
    return jnp.sum(loss_B * mask_B) / jnp.sum(mask_B), {}


def shard_batch(mesh: Mesh | None, batch: Rows) -> Rows:
    """A batch, cut along the axis "data" of the mesh."""
    if mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))


def in_precision(spec: ModelSpec, rows: Rows) -> Rows:
    """Rows in the type that the products of the model read."""
    if spec.precision == "float32":
        return rows
    return jax.tree.map(lambda array: array.astype(jnp.bfloat16), rows)


def run(
    spec: ModelSpec,
    train_spec: TrainSpec,
    params: Any,
    hyper: Hyperparams,
    train: Rows,
    validation: Rows,
    key: Array,
) -> tuple[Any, Curves]:
    """A whole run, to be compiled: the parameters that were kept, and the curves."""
    count = train.delta_NxD.shape[0]

    def loss(transposed: Any, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
        rows = shard_batch(train_spec.mesh, train.take(batch.rows))
        return batch_loss(spec, hyper, transposed, rows, batch.mask)

    def validate(transposed: Any) -> Array:
        return mean_nll(spec, transpose_params(transposed), validation, hyper.num_heads)

    kept, curves = run_epochs(
        train_spec.stopping,
        transpose_params(params),
        adamw(hyper, train_spec.warmup, train_spec.steps(count)),
        loss,
        shuffle_rows(key, count, train_spec.batch_size),
        validate if validation.delta_NxD.shape[0] else None,
    )
    return transpose_params(kept), curves


@partial(jax.jit, static_argnames=("spec", "train_spec"), donate_argnames=("params_S",))
def fit_members(
    spec: ModelSpec,
    train_spec: TrainSpec,
    params_S: Any,
    hyper_S: Hyperparams,
    train: Rows,
    validation: Rows,
    key: Array,
) -> tuple[Any, Curves]:
    """``run`` for S members at once: every leaf has a leading axis S, the rows have none."""
    each = partial(
        run,
        spec,
        train_spec,
        train=in_precision(spec, train),
        validation=validation,
        key=key,
    )
    return jax.vmap(lambda params, hyper: each(params, hyper))(params_S, hyper_S)


def fit(
    spec: ModelSpec, params: Any, train: Rows, validation: Rows, config: TrainConfig, key: Array
) -> tuple[Any, Curves]:
    """Minimise the stage-1 objective over at most ``config.epochs`` passes.

    Returns the parameters of the epoch with the best validation NLL (``config.select == "best"``
    and there are validation rows) or of the last epoch, and the curves.
    """
    train_spec = TrainSpec.from_config(config, validated=validation.delta_NxD.shape[0] > 0)
    # A sweep of one member.
    params_1, hyper_1 = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[None],
        (params, Hyperparams.from_config(config, spec.num_heads)),
    )
    result_1 = fit_members(spec, train_spec, params_1, hyper_1, train, validation, key)
    return jax.tree.map(lambda leaf: leaf[0], result_1)
