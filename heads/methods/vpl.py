"""Variational preference learning: a group's labelled pairs become a vector that the reward reads.

Poddar et al. 2024 (arXiv 2408.10075, section 4; the language-model variant). An encoder reads
several labelled pairs of one group without an order, a decoder scores a response under the latent
vector. Where their code has no answer or another one:

- The latent vector has length ``sqrt(latent)`` whenever it is used. Their code rescales the sample
  in training and not the mean at test time, so the decoder meets lengths that it has not seen.
- The KL term has its factor 1/2; its weight runs through four cosine cycles, in any run.
- All labelled rows of a group are one set at test time; what is pooled is a mean over pairs.
- A group without labelled rows gets the zero vector: the prior mean, which has no direction.
- Where every group is large, the rows of a step share one set per group, since reading sets costs
  most of a step. A row whose own pair is in that set does not count in that step.
- Inputs are divided by the root mean square of all training responses, one number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...configs.baselines import VplConfig
from ...configs.train import TrainConfig
from ..adaptation import BudgetError
from ..divergence import divergence
from ..epochs import Batches, Curves, Stopping, run_epochs, shuffled_batches
from ..losses import head_nll
from ..perceptron import init_perceptron, perceptron
from ..training import make_optimiser, total_steps
from .interface import (
    NO_LABEL,
    Examples,
    Method,
    Prediction,
    Problem,
    Sides,
    Trained,
    predict_reward,
)

INIT_STREAM, TRAIN_STREAM = 41, 42
SLOPE, WARMUP, KL_CYCLES, KL_FLOOR = 0.2, 0.03, 4, 0.1
# The official code clips every mean and log variance of the posterior to [-1, 1].
POSTERIOR_LIMIT = 1.0
# Groups share their sets in a step where few rows are lost to it: one in this many, at most.
ROWS_PER_PLACE = 4
TINY = 1e-12


class Posterior(NamedTuple):
    """Mean and log variance of a diagonal normal over latent vectors: two (M, L) arrays."""

    mean_MxL: Array
    log_variance_MxL: Array


network = partial(perceptron, activation=partial(jax.nn.leaky_relu, negative_slope=SLOPE))


@partial(jax.jit, static_argnames=("width", "options"))
def init_model(width: int, options: VplConfig, key: Array) -> dict[str, Any]:
    """Fresh parameters of encoder and decoder."""
    hidden, latent = options.hidden, options.latent
    widths = dict.fromkeys(("query", "key", "value", "mean", "log_variance"), (latent, latent))
    widths |= {"pair": (2 * width, hidden, hidden, latent)}
    widths |= {"decoder": (width + latent, hidden, hidden, 1)}
    keys = jax.random.split(key, len(widths))
    return {name: init_perceptron(k, *widths[name]) for k, name in zip(keys, widths, strict=True)}


def encode(params: Any, sides: Sides, mask_MxC: Array) -> Posterior:
    """The posterior after M sets of C pairs, whose sides are (M, C, D); masked slots do not count.

    A set without any pair gets the prior, mean 0 and log variance 0.
    """
    pairs_MxCxL = network(params["pair"], jnp.concatenate(sides, axis=-1))
    query, key, value = (network(params[name], pairs_MxCxL) for name in ("query", "key", "value"))
    scores_MxCxC = jnp.einsum("mql,mkl->mqk", query, key) / math.sqrt(query.shape[-1])
    # A finite bound: a set without a pair would otherwise be 0 / 0.
    scores_MxCxC = jnp.where(mask_MxC[:, None, :] > 0, scores_MxCxC, -1e9)
    read_MxCxL = jax.nn.softmax(scores_MxCxC, axis=-1) @ value
    count_Mx1 = jnp.sum(mask_MxC, axis=-1, keepdims=True)
    pooled_MxL = jnp.sum(read_MxCxL * mask_MxC[..., None], axis=-2) / jnp.maximum(count_Mx1, 1.0)
    mean_MxL = _clip(network(params["mean"], pooled_MxL))
    log_variance_MxL = _clip(network(params["log_variance"], pooled_MxL))
    return Posterior(mean_MxL * (count_Mx1 > 0), log_variance_MxL * (count_Mx1 > 0))


def _clip(value_MxL: Array) -> Array:
    return jnp.clip(value_MxL, -POSTERIOR_LIMIT, POSTERIOR_LIMIT)


def kl_to_prior(posterior: Posterior) -> Array:
    """``KL(posterior || N(0, I))``: (M,), in nats."""
    mean_MxL, log_MxL = posterior
    return 0.5 * jnp.sum(mean_MxL**2 + jnp.exp(log_MxL) - 1.0 - log_MxL, axis=-1)


def rescale(latent_MxL: Array) -> Array:
    """The same direction at length ``sqrt(L)``; the zero vector stays zero."""
    square_Mx1 = jnp.mean(latent_MxL**2, axis=-1, keepdims=True)
    return latent_MxL / jnp.sqrt(jnp.maximum(square_Mx1, TINY))


def kl_slope(step: Array | int, steps: int) -> Array:
    """Share of the KL weight at a step: ``KL_CYCLES`` cosine rises from ``KL_FLOOR`` to 1."""
    phase = jnp.mod(step * KL_CYCLES / steps, 1.0)
    return KL_FLOOR + (1 - KL_FLOOR) * (1 - jnp.cos(jnp.pi * phase)) / 2


def margin(params: Any, sides: Sides, latent_NxL: Array) -> Array:
    """Reward of chosen minus that of rejected under each row's latent vector: (N,)."""
    inputs = (jnp.concatenate([side, latent_NxL], axis=-1) for side in sides)
    chosen_Nx1, rejected_Nx1 = (network(params["decoder"], side) for side in inputs)
    return (chosen_Nx1 - rejected_Nx1)[..., 0]


class Deck(NamedTuple):
    """Training rows in group order, shuffled within groups 0..G-1, and the index of each."""

    rows_N: Array
    place_N: Array
    size_G: Array

    @classmethod
    def shuffle(cls, key: Array, group_N: Array, size_G: Array) -> Deck:
        """A fresh order of the rows of every group."""
        rows_N = jnp.lexsort((jax.random.uniform(key, group_N.shape), group_N))
        rank_N = jnp.zeros_like(rows_N).at[rows_N].set(jnp.arange(rows_N.size))
        return cls(rows_N, rank_N - (jnp.cumsum(size_G) - size_G)[group_N], size_G)

    def after(self, group_M: Array, place_M: Array, count: int) -> tuple[Array, Array]:
        """The ``count`` rows after an index of a group, around its end: (M, C), 1.0 where real."""
        start_M, size_M = (jnp.cumsum(self.size_G) - self.size_G)[group_M], self.size_G[group_M]
        offset_1xC = jnp.arange(1, count + 1)[None]
        place_MxC = (place_M[:, None] + offset_1xC) % size_M[:, None]
        real_MxC = offset_1xC < size_M[:, None]
        return self.rows_N[start_M[:, None] + place_MxC], real_MxC.astype(jnp.float32)


@partial(jax.jit, static_argnames=("options", "optimisation", "shared"))
def fit_model(
    params: Any,
    sides: Sides,
    group_N: Array,
    size_G: Array,
    options: VplConfig,
    optimisation: TrainConfig,
    shared: bool,
    key: Array,
) -> tuple[Any, Curves]:
    """Minimise Bradley-Terry loss plus annealed KL over ``optimisation.epochs`` passes.

    Rows have groups 0..G-1 of ``size_G`` rows. Returns the last parameters and the curves, with the
    mean KL per epoch in nats as ``metrics["kl"]``.
    """
    steps = total_steps(optimisation, group_N.size)

    def rows_of(rows: Array) -> Sides:
        return Sides(*(side[rows] for side in sides))

    def plan_epoch(_params: Any, epoch: Array) -> tuple[tuple[Deck, Array], Any]:
        """A fresh deck and the key of the steps' noise; batches with their step in the run."""
        deck_key, order_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch), 3)
        batches = shuffled_batches(order_key, group_N.size, optimisation.batch_size)
        step_T = epoch * len(batches.rows) + jnp.arange(len(batches.rows))
        return (Deck.shuffle(deck_key, group_N, size_G), noise_key), (batches, step_T)

    def loss(
        params: Any, fixed: tuple[Deck, Array], numbered: tuple[Batches, Array]
    ) -> tuple[Array, dict[str, Array]]:
        (deck, noise_key), (batch, step) = fixed, numbered
        key, slope = jax.random.fold_in(noise_key, step), kl_slope(step, steps)
        group_B, place_B, mask_B = group_N[batch.rows], deck.place_N[batch.rows], batch.mask
        set_group_M, set_place_M, set_B = group_B, place_B, jnp.arange(group_B.size)
        if shared:
            set_group_M, set_B = jnp.arange(size_G.size), group_B
            set_place_M = jax.random.randint(jax.random.fold_in(key, 0), size_G.shape, 0, size_G)
            offset_B = (place_B - set_place_M[group_B]) % size_G[group_B]
            mask_B = jnp.where((offset_B >= 1) & (offset_B <= options.context), 0.0, mask_B)
        context_MxC, real_MxC = deck.after(set_group_M, set_place_M, options.context)
        posterior = encode(params, rows_of(context_MxC), real_MxC)
        deviation_BxL = jnp.exp(posterior.log_variance_MxL / 2)[set_B]
        noise_BxL = jax.random.normal(jax.random.fold_in(key, 1), deviation_BxL.shape)
        latent_BxL = rescale(posterior.mean_MxL[set_B] + noise_BxL * deviation_BxL)
        kl_B = kl_to_prior(posterior)[set_B]
        total_B = head_nll(margin(params, rows_of(batch.rows), latent_BxL))
        total_B = total_B + options.kl_weight * slope * kl_B
        count = jnp.maximum(jnp.sum(mask_B), 1.0)
        kl = jnp.sum(kl_B * mask_B) / count
        return jnp.sum(total_B * mask_B) / count, {"kl": kl}

    return run_epochs(
        Stopping(optimisation.epochs),
        params,
        make_optimiser(optimisation, steps),
        loss,
        plan_epoch,
        metrics=("kl",),
    )


@jax.jit
def read_draws(params: Any, sides: Sides, mask_SxGxn: Array) -> Array:
    """Latent vectors (S, G, L) of the labelled pairs of every draw and group."""
    return jax.lax.map(lambda draw: rescale(encode(params, *draw)[0]), (sides, mask_SxGxn))


@jax.jit
def group_margins(params: Any, sides: Sides, group_N: Array) -> Array:
    """Margins (S, N) under the latent vectors of each row's group, zero for a row of nobody."""

    def one(latent_GxL: Array) -> Array:
        latent_NxL = latent_GxL[jnp.maximum(group_N, 0)] * (group_N != NO_LABEL)[:, None]
        return margin(params, sides, latent_NxL)

    return jax.lax.map(one, params["latent"])


def _scaled(sides: Sides, scale: float) -> Sides:
    return Sides(*(side / np.float32(scale) for side in sides))


def _fit(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    options, budget = problem.baselines.vpl, problem.budget
    assert budget is not None  # the stage leaves the method out without one
    _, place_N, rows_G = np.unique(problem.train.group_N, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((problem.train.group_N != NO_LABEL) & (rows_G[place_N] > 1))
    if not rows.size:
        raise BudgetError(
            "vpl: expected training rows of which two or more have the same adapt.group, found "
            "none; set adapt.source=train, give labels, or leave vpl out"
        )
    sides = Sides(*(side[rows] for side in problem.train.load_sides()))
    scale = float(np.sqrt(np.mean(np.square(sides.chosen_NxD)))) or 1.0
    _, group_N, size_G = np.unique(place_N[rows], return_inverse=True, return_counts=True)
    shared = size_G.size < options.batch_size
    shared &= int(size_G.min()) >= ROWS_PER_PLACE * options.context
    names = ("learning_rate", "weight_decay", "batch_size", "epochs")
    own = {name: getattr(options, name) for name in names}
    params, curves = fit_model(
        init_model(problem.width, options, jax.random.fold_in(problem.key, INIT_STREAM)),
        jax.tree.map(jnp.asarray, _scaled(sides, scale)),
        jnp.asarray(group_N),
        jnp.asarray(size_G),
        options,
        replace(problem.train_config, warmup=WARMUP, **own),
        shared,
        jax.random.fold_in(problem.key, TRAIN_STREAM),
    )
    remedy = "lower baselines.vpl.learning_rate or set train.features=standardized"
    error = divergence("training vpl", np.asarray(curves.bad_step), remedy)
    if error is not None:
        raise error
    latent_SxGxL = np.zeros((budget.draws, len(problem.groups), options.latent), np.float32)
    if budget.mask_SxB.shape[1]:
        shaped = Sides(*map(budget.by_group, _scaled(budget.load_sides(), scale)))
        latent_SxGxL = read_draws(params, shaped, budget.by_group(budget.mask_SxB))
    return Trained(
        jax.tree.map(np.asarray, params | {"latent": latent_SxGxL}),
        asdict(options) | {"scale": scale, "shared_sets": shared},
        {"objective": np.asarray(curves.objective), "kl": np.asarray(curves.metrics["kl"])},
    )


def _predict(trained: Trained, examples: Examples) -> Prediction:
    sides = _scaled(examples.load_sides(), trained.settings["scale"])
    return predict_reward(np.asarray(group_margins(trained.params, sides, examples.group_N)))


VPL = Method(
    "vpl",
    "VPL: a reward that reads a latent vector, inferred from a group's labelled pairs; trained on "
    "all labels of the groups.",
    stage="adapt",
    fit=_fit,
    predict=_predict,
    needs=("groups",),
    given="group",
)
