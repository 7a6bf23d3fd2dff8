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
from .losses import head_nll, soft_label_cross_entropy
from .model import ModelSpec, log_weights, margins
from .training import Batches, flip, shuffled_batches


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
    """Budget rows of one draw: head margins, router inputs, and 0.0 for places without a row.

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


class Setting(NamedTuple):
    """What may differ between members of one program: scalars, and the heads in use."""

    tau: Array | float
    learning_rate: Array | float
    weight_decay: Array | float
    num_heads: Array | int

    @classmethod
    def of(cls, config: AdaptConfig, num_heads: int) -> Setting:
        """The setting that a configuration describes, with the given number of heads."""
        return cls(config.tau, config.learning_rate, config.weight_decay, num_heads)


def run(
    spec: ModelSpec,
    epochs: int,
    batch_size: int,
    params: Any,
    data: AdaptData,
    setting: Setting,
    key: Array,
) -> tuple[Any, Array]:
    """Fine-tune the router on one draw, to be compiled; heads are data here and cannot change.

    Returns the new router parameters and the mean cross-entropy per epoch (epochs,).
    """
    losses_NxK = pooled_losses(head_nll(data.delta_NxK), data.mask_N, data.pool_N)
    optimiser = optax.adamw(setting.learning_rate, weight_decay=setting.weight_decay)
    route = partial(log_weights, spec, num_heads=setting.num_heads)

    def loss(flipped: Any, targets_BxK: Array, inputs_BxD: Array, mask_B: Array) -> Array:
        per_row_B = soft_label_cross_entropy(targets_BxK, route(flip(flipped), inputs_BxD))
        return jnp.sum(per_row_B * mask_B) / jnp.maximum(jnp.sum(mask_B), 1.0)

    def epoch(carry: tuple[Any, Any], number: Array) -> tuple[tuple[Any, Any], Array]:
        log_prior_NxK = route(flip(carry[0]), data.router_input_NxD)
        targets_NxK = jax.lax.stop_gradient(hedge_targets(log_prior_NxK, losses_NxK, setting.tau))
        batches: Batches = shuffled_batches(
            jax.random.fold_in(key, number), data.delta_NxK.shape[0], batch_size
        )

        def step(carry: tuple[Any, Any], batch: Batches) -> tuple[tuple[Any, Any], Array]:
            router, state = carry
            value, gradient = jax.value_and_grad(loss)(
                router,
                targets_NxK[batch.rows],
                data.router_input_NxD[batch.rows],
                batch.mask * data.mask_N[batch.rows],
            )
            updates, state = optimiser.update(gradient, state, router)
            return (optax.apply_updates(router, updates), state), value

        carry, values = jax.lax.scan(step, carry, batches)
        return carry, jnp.mean(values)

    start = flip(params)
    (router, _), curve = jax.lax.scan(epoch, (start, optimiser.init(start)), jnp.arange(epochs))
    return flip(router), curve


class Members(NamedTuple):
    """M models that learn from the same draws: routers, heads (M, D, K), scalars, and pools."""

    router_M: Any
    heads_M: Any
    setting_M: Setting
    pool_MxSxN: Array


class Draws(NamedTuple):
    """S draws of labelled rows: differences, router inputs, and 0.0 for places without a row."""

    delta_SxNxD: Array
    router_input_SxNxD: Array
    mask_SxN: Array


@partial(jax.jit, static_argnames=("spec", "epochs", "batch_size", "at_once"))
def fit_routers(
    spec: ModelSpec,
    epochs: int,
    batch_size: int,
    at_once: int,
    members_U: Members,
    draws_U: Draws,
    key_U: Array,
) -> tuple[Any, Array]:
    """``run`` for U sets of draws and the M models of each: routers (U, S, M, ...), and curves.

    A draw's key is its set's folded with the number of the draw. ``at_once`` draws are fitted
    together, which is one on a CPU, where routers and optimisers of more would leave the cache.
    """

    def one_draw(place: tuple[Array, Array]) -> tuple[Any, Array]:
        number, draw = place
        members, draws = jax.tree.map(lambda leaf: leaf[number], (members_U, draws_U))
        delta_NxD, input_NxD, mask_N = jax.tree.map(lambda leaf: leaf[draw], draws)
        key = jax.random.fold_in(key_U[number], draw)

        def one_model(router: Any, heads: Any, setting: Setting, pool_N: Array) -> Any:
            data = AdaptData(margins(heads, delta_NxD), input_NxD, mask_N, pool_N)
            return run(spec, epochs, batch_size, router, data, setting, key)

        pool_MxN = members.pool_MxSxN[:, draw]
        return jax.vmap(one_model)(members.router_M, members.heads_M, members.setting_M, pool_MxN)

    sets, draws = draws_U.mask_SxN.shape[:2]
    number_T, draw_T = (grid.reshape(-1) for grid in jnp.indices((sets, draws)))
    found_T = jax.lax.map(one_draw, (number_T, draw_T), batch_size=at_once)
    return jax.tree.map(lambda leaf: leaf.reshape(sets, draws, *leaf.shape[1:]), found_T)


@partial(jax.jit, static_argnames=("spec", "config"))
def fit_router(
    spec: ModelSpec, params: Any, data: AdaptData, config: AdaptConfig, key: Array
) -> tuple[Any, Array]:
    """``run`` for one draw under a configuration."""
    setting = Setting.of(config, spec.num_heads)
    return run(spec, config.epochs, config.batch_size, params, data, setting, key)
