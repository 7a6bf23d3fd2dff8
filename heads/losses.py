"""The mixture likelihood and its regulariser, per example and in the log domain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def head_nll(delta_NxK: Array) -> Array:
    """Bradley-Terry loss of every head, ``-log sigmoid(delta)``: (N, K), in nats."""
    return jax.nn.softplus(-delta_NxK)


def mixture_log_prob(delta_NxK: Array, log_weights_NxK: Array) -> Array:
    """``log sum_k w_k sigmoid(delta_k)``, the log-probability that chosen wins: (N,), in nats.

    A head of weight zero (log weight ``-inf``) contributes neither value nor gradient; at least
    one head per row must have weight.
    """
    return jax.nn.logsumexp(log_weights_NxK - head_nll(delta_NxK), axis=-1)


def mixture_nll(delta_NxK: Array, log_weights_NxK: Array) -> Array:
    """Negative log-likelihood of the mixture of Bradley-Terry models (paper eq. 2): (N,), in nats.

    >>> import jax.numpy as jnp
    >>> nll = mixture_nll(jnp.array([[2.0, -1.0]]), jnp.log(jnp.array([[0.3, 0.7]])))
    >>> round(float(nll[0]), 4)
    0.793
    """
    return -mixture_log_prob(delta_NxK, log_weights_NxK)


def negative_entropy(log_weights_NxK: Array) -> Array:
    """``sum_k w_k log w_k`` of every row's own weights (paper eq. 3): (N,), in [-log K, 0].

    It pulls each row towards uniform weights, which is not the same as balancing the heads over a
    batch. ``0 log 0`` counts as 0, with zero gradient.
    """
    used_NxK = log_weights_NxK > -jnp.inf
    safe_NxK = jnp.where(used_NxK, log_weights_NxK, 0.0)
    return jnp.sum(jnp.where(used_NxK, jnp.exp(safe_NxK) * safe_NxK, 0.0), axis=-1)


def stage1_objective(
    delta_NxK: Array, log_weights_NxK: Array, entropy_weight: float | Array
) -> Array:
    """Mixture NLL plus ``entropy_weight`` times the negative entropy (paper eq. 4): (N,)."""
    return mixture_nll(delta_NxK, log_weights_NxK) + entropy_weight * negative_entropy(
        log_weights_NxK
    )


def soft_label_cross_entropy(targets_NxK: Array, log_weights_NxK: Array) -> Array:
    """``-sum_k q_k log w_k``, the loss that fits a router to Hedge targets: (N,), in nats.

    A head without target mass counts as 0 even where its weight is zero.
    """
    safe_NxK = jnp.where(targets_NxK > 0, log_weights_NxK, 0.0)
    return -jnp.sum(targets_NxK * safe_NxK, axis=-1)
