"""Stage 2: Hedge targets from head losses, and the router that learns to predict them.

The targets are the closed form of ``min_w sum_k w_k L_k + tau KL(w || prior)`` on the simplex
(paper eq. 5): ``w_k`` proportional to ``prior_k exp(-L_k / tau)``. They are recomputed at the
start of every epoch from the router itself and held fixed within it (paper, appendix B.1).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..configs.adapt import AdaptConfig
from .epochs import Batches, Stopping, run_epochs, shuffled_batches
from .losses import head_nll, soft_label_cross_entropy
from .model import ModelSpec, log_weights, margins
from .training import transpose_params


def hedge_targets(log_prior_NxK: Array, losses_NxK: Array, tau: float | Array) -> Array:
    """Hedge weights per row: (N, K), on the simplex. ``losses`` in nats, ``tau > 0`` in nats.

    The smallest loss among heads with prior weight is subtracted before the division, so float32
    stays exact where it matters for ``tau`` down to 1e-4. A zero prior stays zero.

    >>> import jax.numpy as jnp
    >>> q = hedge_targets(jnp.log(jnp.array([[0.3, 0.7]])), jnp.array([[0.126928, 1.3132617]]), 0.5)
    >>> [round(float(x), 4) for x in q[0]]
    [0.8213, 0.1787]
    """
    possible_NxK = log_prior_NxK > -jnp.inf
    best_Nx1 = jnp.min(jnp.where(possible_NxK, losses_NxK, jnp.inf), axis=-1, keepdims=True)
    regret_NxK = jnp.where(possible_NxK, losses_NxK - best_Nx1, 0.0)
    return jax.nn.softmax(log_prior_NxK - regret_NxK / tau, axis=-1)


class AdaptData(NamedTuple):
    """Budget rows of one draw: head margins, router inputs, and 0.0 for slots without a row.

    Rows with the same ``pool_N`` number, below N, share the mean of their losses.
    """

    delta_NxK: Array
    router_input_NxD: Array
    mask_N: Array
    pool_N: Array


def pooled_losses(losses_NxK: Array, mask_N: Array, pool_N: Array) -> Array:
    """(N, K) the mean loss over each row's pool; a pool of one row is that row's own loss."""
    pools = losses_NxK.shape[0]
    sums = jax.ops.segment_sum(losses_NxK * mask_N[:, None], pool_N, num_segments=pools)
    counts = jax.ops.segment_sum(mask_N, pool_N, num_segments=pools)
    return (sums / jnp.maximum(counts, 1.0)[:, None])[pool_N]


class RouterHyperparams(NamedTuple):
    """What may differ between members of one program: scalars, and the heads in use."""

    tau: Array | float
    learning_rate: Array | float
    weight_decay: Array | float
    num_heads: Array | int

    @classmethod
    def from_config(cls, config: AdaptConfig, num_heads: int) -> RouterHyperparams:
        """The values of a configuration, with the given number of heads."""
        return cls(config.tau, config.learning_rate, config.weight_decay, num_heads)


def run(
    spec: ModelSpec,
    epochs: int,
    batch_size: int,
    params: Any,
    data: AdaptData,
    hyper: RouterHyperparams,
    key: Array,
) -> tuple[Any, Array]:
    """Fine-tune the router on one draw, to be compiled; heads are data here and cannot change.

    Returns the new router parameters and the mean cross-entropy per epoch (epochs,).
    """
    losses_NxK = pooled_losses(head_nll(data.delta_NxK), data.mask_N, data.pool_N)
    route = partial(log_weights, spec, num_heads=hyper.num_heads)

    def plan_epoch(transposed: Any, epoch: Array) -> tuple[Array, Batches]:
        """Targets from the router as it is now, held fixed within the epoch."""
        log_prior_NxK = route(transpose_params(transposed), data.router_input_NxD)
        targets_NxK = jax.lax.stop_gradient(hedge_targets(log_prior_NxK, losses_NxK, hyper.tau))
        count = data.delta_NxK.shape[0]
        return targets_NxK, shuffled_batches(jax.random.fold_in(key, epoch), count, batch_size)

    def loss(transposed: Any, targets_NxK: Array, batch: Batches) -> tuple[Array, dict[str, Array]]:
        log_weights_BxK = route(transpose_params(transposed), data.router_input_NxD[batch.rows])
        per_row_B = soft_label_cross_entropy(targets_NxK[batch.rows], log_weights_BxK)
        # A batch may hold nothing but padding and rows that a group could not fill.
        mask_B = batch.mask * data.mask_N[batch.rows]
        return jnp.sum(per_row_B * mask_B) / jnp.maximum(jnp.sum(mask_B), 1.0), {}

    router, curves = run_epochs(
        Stopping(epochs),
        transpose_params(params),
        optax.adamw(hyper.learning_rate, weight_decay=hyper.weight_decay),
        loss,
        plan_epoch,
    )
    return transpose_params(router), curves.objective


class RouterModels(NamedTuple):
    """M models that learn from the same draws: routers, heads (M, D, K), scalars, and pools."""

    router_M: Any
    heads_M: Any
    hyper_M: RouterHyperparams
    pool_MxSxN: Array


class LabelledDraws(NamedTuple):
    """S draws of labelled rows: differences, router inputs, and 0.0 for slots without a row."""

    delta_SxNxD: Array
    router_input_SxNxD: Array
    mask_SxN: Array


@partial(jax.jit, static_argnames=("spec", "epochs", "batch_size", "at_once"))
def fit_routers(
    spec: ModelSpec,
    epochs: int,
    batch_size: int,
    at_once: int,
    models_U: RouterModels,
    draws_U: LabelledDraws,
    key_U: Array,
) -> tuple[Any, Array]:
    """``run`` for U sets of draws and the M models of each: routers (U, S, M, ...), and curves.

    A draw's key is its set's folded with the number of the draw. ``at_once`` draws are fitted
    together, which is one on a CPU, where routers and optimisers of more would leave the cache.
    """

    def one_draw(index: tuple[Array, Array]) -> tuple[Any, Array]:
        number, draw = index
        models, draws = jax.tree.map(lambda leaf: leaf[number], (models_U, draws_U))
        delta_NxD, input_NxD, mask_N = jax.tree.map(lambda leaf: leaf[draw], draws)
        key = jax.random.fold_in(key_U[number], draw)

        def one_model(router: Any, heads: Any, hyper: RouterHyperparams, pool_N: Array) -> Any:
            data = AdaptData(margins(heads, delta_NxD), input_NxD, mask_N, pool_N)
            return run(spec, epochs, batch_size, router, data, hyper, key)

        pool_MxN = models.pool_MxSxN[:, draw]
        return jax.vmap(one_model)(models.router_M, models.heads_M, models.hyper_M, pool_MxN)

    sets, draws = draws_U.mask_SxN.shape[:2]
    number_T, draw_T = (grid.reshape(-1) for grid in jnp.indices((sets, draws)))
    fitted_T = jax.lax.map(one_draw, (number_T, draw_T), batch_size=at_once)
    return jax.tree.map(lambda leaf: leaf.reshape(sets, draws, *leaf.shape[1:]), fitted_T)


@partial(jax.jit, static_argnames=("spec", "config"))
def fit_router(
    spec: ModelSpec, params: Any, data: AdaptData, config: AdaptConfig, key: Array
) -> tuple[Any, Array]:
    """``run`` for one draw under a configuration."""
    hyper = RouterHyperparams.from_config(config, spec.num_heads)
    return run(spec, config.epochs, config.batch_size, params, data, hyper, key)
