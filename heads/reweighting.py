"""Adaptation by reweighting: how much to trust each head after a few labelled rows.

The weights are a generalised posterior over heads, prior times ``exp(-loss / T)`` (Lee et al.,
Test-Time Alignment via Hypothesis Reweighting, arXiv 2412.08812). With summed losses the rows may
come in any order, or one at a time. The labelled rows may also be asked for, the most informative
next. Everything stays in the log domain.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from .losses import head_nll, mixture_log_prob

Loss = Literal["nll_sum", "nll_mean", "errors"]
Query = Literal["drawn", "entropy", "bald", "variance"]


def uniform_log_weights(num_heads: int) -> Array:
    """Equal log weights: (K,)."""
    return jnp.full(num_heads, -jnp.log(float(num_heads)))


def log_posterior(
    delta_nxK: Array,
    mask_n: Array,
    log_prior_K: Array,
    loss: Loss = "nll_sum",
    temperature: float | Array = 1.0,
) -> Array:
    """``log prior_k - L_k / T``, normalised over the heads: (K,).

    ``L_k`` adds up (nll_sum) or averages (nll_mean) the Bradley-Terry losses of head k in nats, or
    counts the rows whose order it gets wrong, a tie among them (errors). Rows with mask 0.0 count
    nothing; without any row the answer is the prior. A head without prior weight gets none.

    >>> import jax.numpy as jnp
    >>> rows = jnp.array([[1.0, -1.0, 0.5], [2.0, 0.0, -0.5], [0.5, -2.0, 1.0]])
    >>> weights = jnp.exp(log_posterior(rows, jnp.ones(3), uniform_log_weights(3)))
    >>> [round(float(w), 4) for w in weights]
    [0.6809, 0.0272, 0.2919]
    """
    wrong_nxK = (delta_nxK <= 0).astype(jnp.float32)
    loss_nxK = wrong_nxK if loss == "errors" else head_nll(delta_nxK)
    total_K = jnp.sum(jnp.where(mask_n[:, None] > 0, loss_nxK, 0.0), axis=0)
    if loss == "nll_mean":
        total_K = total_K / jnp.maximum(jnp.sum(mask_n), 1.0)
    # The best possible head loses nothing: float32 stays exact between heads at small T.
    regret_K = total_K - jnp.min(jnp.where(log_prior_K > -jnp.inf, total_K, jnp.inf))
    return jax.nn.log_softmax(log_prior_K - regret_K / temperature)


def binary_entropy(log_p: Array, log_q: Array) -> Array:
    """``-p log p - q log q`` in nats, elementwise, from log probabilities with ``p + q = 1``."""
    # The logarithm of a sum that is 1 may come out above 0.
    log_p, log_q = jnp.minimum(log_p, 0.0), jnp.minimum(log_q, 0.0)
    return -jnp.exp(log_p) * log_p - jnp.exp(log_q) * log_q


def acquisition(query: Query, delta_nxK: Array, log_weights_K: Array) -> Array:
    """How much the label of each row would tell, without knowing it: (n,).

    With ``p_k = sigmoid(delta_k)`` and their weighted mean ``p``: entropy ``h(p)`` in nats in
    [0, log 2], BALD ``h(p) - sum_k w_k h(p_k)`` in nats (0 where the heads agree), or variance
    ``sum_k w_k (p_k - p)^2`` in [0, 1/4]. All are the same for a row and its mirror image.
    """
    shape = delta_nxK.shape
    log_weights_nxK = jnp.broadcast_to(log_weights_K, shape)
    log_p_n = mixture_log_prob(delta_nxK, log_weights_nxK)
    if query == "variance":
        gap_nxK = jax.nn.sigmoid(delta_nxK) - jnp.exp(log_p_n)[:, None]
        return jnp.sum(jnp.exp(log_weights_nxK) * gap_nxK**2, axis=-1)
    entropy_n = binary_entropy(log_p_n, mixture_log_prob(-delta_nxK, log_weights_nxK))
    if query == "entropy":
        return entropy_n
    entropy_nxK = binary_entropy(-head_nll(delta_nxK), -head_nll(-delta_nxK))
    within_n = jnp.sum(jnp.exp(log_weights_nxK) * entropy_nxK, axis=-1)
    return jnp.maximum(entropy_n - within_n, 0.0)


def choose_rows(
    delta_nxK: Array,
    mask_n: Array,
    log_prior_K: Array,
    count: int,
    query: Query = "drawn",
    loss: Loss = "nll_sum",
    temperature: float | Array = 1.0,
) -> Array:
    """Which rows of a pool to label, 1.0 for those chosen: (n,).

    ``drawn`` takes the first ``count`` slots; the others ask greedily for one row after another
    and update the weights after each label. Rows with mask 0.0 are never chosen.
    """
    slots = delta_nxK.shape[0]
    if query == "drawn" or count >= slots:
        return mask_n * (jnp.arange(slots) < count)

    def ask(chosen_n: Array, _: None) -> tuple[Array, None]:
        log_weights_K = log_posterior(delta_nxK, chosen_n, log_prior_K, loss, temperature)
        left_n = mask_n * (1.0 - chosen_n)
        score_n = jnp.where(left_n > 0, acquisition(query, delta_nxK, log_weights_K), -jnp.inf)
        slot = jnp.argmax(score_n)
        # Where nothing is left, any slot may win: it must not become a labelled row.
        return chosen_n.at[slot].max(left_n[slot]), None

    return jax.lax.scan(ask, jnp.zeros(slots), None, length=count)[0]


@partial(jax.jit, static_argnames=("count", "query", "loss"))
def group_log_posteriors(
    delta_SxGxnxK: Array,
    mask_SxGxn: Array,
    log_prior_K: Array,
    count: int,
    query: Query = "drawn",
    loss: Loss = "nll_sum",
    temperature: float | Array = 1.0,
) -> Array:
    """Log weights of every draw and group from ``count`` of its n labelled slots: (S, G, K)."""

    def one(delta_nxK: Array, mask_n: Array) -> Array:
        chosen_n = choose_rows(delta_nxK, mask_n, log_prior_K, count, query, loss, temperature)
        return log_posterior(delta_nxK, chosen_n, log_prior_K, loss, temperature)

    return jax.vmap(jax.vmap(one))(delta_SxGxnxK, mask_SxGxn)
