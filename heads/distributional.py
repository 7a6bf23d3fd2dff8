"""Rewards that are distributions: how two of them compare, and what training adds to that.

Distributional preference learning (Siththaranjan et al. 2024, section 4) gives every response a
normal distribution or one over fixed levels. What a context that nobody recorded does to the labels
then shows up as spread, not as a compromise in the mean.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .losses import negative_entropy

Link = Literal["logistic", "normal"]
# Of the official code. It is steeper than the logistic that follows the normal distribution
# function closest around 0, whose slope is sqrt(8 / pi).
LOGISTIC_SLOPE = math.sqrt(2 * math.pi)
# Keeps the gradient of a square root finite where both deviations vanish.
SMALLEST_VARIANCE = 1e-12


class RewardMoments(NamedTuple):
    """Mean and variance of every response's reward: two (N,) arrays."""

    mean_N: Array
    variance_N: Array


def normal_moments(raw_Nx2: Array) -> RewardMoments:
    """Moments of a normal reward from its mean and raw deviation, ``sd = softplus(raw)``."""
    return RewardMoments(raw_Nx2[..., 0], jax.nn.softplus(raw_Nx2[..., 1]) ** 2)


def level_values(atoms: int) -> Array:
    """Rewards of the levels of a categorical reward, evenly spaced on [0, 1]: (A,)."""
    return jnp.linspace(0.0, 1.0, atoms)


def categorical_moments(logits_NxA: Array) -> RewardMoments:
    """Moments of a reward over A levels."""
    probability_NxA = jax.nn.softmax(logits_NxA, axis=-1)
    levels_A = level_values(logits_NxA.shape[-1])
    mean_N = probability_NxA @ levels_A
    distance_NxA = jnp.expand_dims(levels_A, range(mean_N.ndim)) - mean_N[..., None]
    return RewardMoments(mean_N, jnp.sum(probability_NxA * distance_NxA**2, axis=-1))


def comparison_z(chosen: RewardMoments, rejected: RewardMoments) -> Array:
    """Mean of the difference of two independent rewards over its standard deviation: (N,)."""
    variance_N = chosen.variance_N + rejected.variance_N
    return (chosen.mean_N - rejected.mean_N) / jnp.sqrt(variance_N + SMALLEST_VARIANCE)


def normal_log_prob(chosen: RewardMoments, rejected: RewardMoments, link: Link) -> Array:
    """``log P(chosen wins)`` of two normal rewards: (N,), in nats.

    ``normal`` is exact, ``logistic`` the official code's ``sigmoid(sqrt(2 pi) z)``.

    >>> import jax.numpy as jnp
    >>> one, zero = (normal_moments(jnp.array([[mean, 0.0]])) for mean in (1.0, 0.0))
    >>> round(float(jnp.exp(normal_log_prob(one, zero, "logistic"))[0]), 4)
    0.928
    """
    z_N = comparison_z(chosen, rejected)
    if link == "logistic":
        return jax.nn.log_sigmoid(LOGISTIC_SLOPE * z_N)
    return jax.scipy.special.log_ndtr(z_N)


def categorical_log_prob(chosen_NxA: Array, rejected_NxA: Array) -> Array:
    """``log P(chosen wins)`` of two rewards over levels, half of a tie each: (N,), in nats.

    Arguments are logits. The sum runs over pairs of levels in the log domain, so a certain loss has
    a finite value.
    """
    atoms = chosen_NxA.shape[-1]
    share_AxA = jnp.tril(jnp.ones((atoms, atoms)), -1) + 0.5 * jnp.eye(atoms)
    joint_NxAxA = (
        jax.nn.log_softmax(chosen_NxA, axis=-1)[..., :, None]
        + jax.nn.log_softmax(rejected_NxA, axis=-1)[..., None, :]
    )
    share_AxA = jnp.broadcast_to(share_AxA, joint_NxAxA.shape)
    return jax.nn.logsumexp(joint_NxAxA, axis=(-2, -1), b=share_AxA)


def variance_penalty(chosen: RewardMoments, rejected: RewardMoments, mask_N: Array) -> Array:
    """Mean over real rows of the summed variances of both sides, a scalar."""
    return jnp.sum((chosen.variance_N + rejected.variance_N) * mask_N) / jnp.sum(mask_N)


def batch_negative_entropy(chosen_NxA: Array, rejected_NxA: Array, mask_N: Array) -> Array:
    """``sum_a m_a log m_a`` of the mean distribution m over real rows and both sides, a scalar.

    Arguments are logits. It keeps all levels in use: in [-log A, 0], least where m is uniform.
    """
    log_prob_2NxA = jax.nn.log_softmax(jnp.concatenate([chosen_NxA, rejected_NxA]), axis=-1)
    share_2N = jnp.concatenate([mask_N, mask_N]) / (2 * jnp.sum(mask_N))
    share_2NxA = jnp.broadcast_to(share_2N[:, None], log_prob_2NxA.shape)
    return negative_entropy(jax.nn.logsumexp(log_prob_2NxA, axis=0, b=share_2NxA))


def explained_share(moments: RewardMoments) -> Array:
    """``r^2 = Var(mean) / (Var(mean) + mean variance)`` over responses, a scalar in [0, 1].

    Low where labels follow a context that the responses do not tell, near 1 where the responses
    tell all (Siththaranjan et al. 2024, section 4.2).
    """
    between, within = jnp.var(moments.mean_N), jnp.mean(moments.variance_N)
    return between / jnp.maximum(between + within, SMALLEST_VARIANCE)
