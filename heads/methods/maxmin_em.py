"""MaxMin-RLHF's reward models: hard EM, in which every user belongs to one of K heads.

Chakraborty et al., MaxMin-RLHF (arXiv 2402.08925), learn rewards by alternation: a user goes to the
head under which all of their choices are likeliest, ``argmax_k sum log sigmoid(delta_k)``, and each
head is fitted to the pairs of its own users by Bradley-Terry. Users are dealt to the clusters at
random first. Where nobody is named, chunks of rows of one attribute stand in for users, which is
supervision that plain pairs do not have, or every pair is a user of its own.

What keeps the clusters honest:

* A cluster with less than a tenth of an equal share of the units is given the worst-explained units
  of the others: none is ever empty. The units that were moved are counted.
* The fitting step takes a new head only where it explains its own rows no worse than the old one,
  so the clustering objective cannot fall but for such moves.
* Single pairs are a degenerate unit: of two opposite heads one always agrees with the label, and
  the objective of hard EM rises towards 0 and means nothing. So the round that is kept is the one
  whose mixture, under weights that do not look at the label of the row, explains the validation
  rows best (the training rows if there are none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...common.errors import UserError
from ...configs.train import TrainConfig
from ..divergence import DivergenceError
from ..epochs import Batches, Stopping, run_epochs, shuffle_rows
from ..losses import head_nll, mixture_nll
from ..model import RewardHeads, margins
from ..training import make_optimiser, total_steps
from .interface import NO_LABEL, Examples, Method, Prediction, Problem, Trained, predict_heads

HEADS_STREAM, UNIT_STREAM, DEAL_STREAM, SHUFFLE_STREAM = 510, 511, 512, 513
MINIMUM_SHARE = 0.1  # of an equal share of the units, for every cluster
SHARE_FLOOR = 1e-6  # a label with rows in one cluster only has finite log weights for all


class UnitError(UserError):
    """The rows do not name what clusters should be made of; the message says what to change."""


class Clustered(NamedTuple):
    """Rows as hard EM sees them: differences, their unit, and the label that weighs the heads."""

    delta_NxD: Array
    unit_N: Array
    label_N: Array


class Size(NamedTuple):
    """How many units, labels with weights of their own, and rounds."""

    units: int
    labelled: int
    rounds: int


class Rounds(NamedTuple):
    """Per round: log-likelihood per row of its own head, held-out NLL, what the guards did."""

    log_likelihood: Array
    validation_nll: Array
    units_moved: Array
    clusters_refilled: Array
    fits_refused: Array


def unit_labels(kind: str, examples: Examples) -> np.ndarray:
    """(N,) the label whose clusters weigh the heads of a row: user, attribute, or none."""
    named = {"user": examples.user_N, "attribute_chunk": examples.attribute_N}
    return named.get(kind, np.full_like(examples.user_N, NO_LABEL))


def unit_kind(unit: str, examples: Examples) -> str:
    """What is clustered: the setting, or what the rows name where it is ``auto``."""
    kinds = ("user", "attribute_chunk")
    named = [kind for kind in kinds if (unit_labels(kind, examples) != NO_LABEL).any()]
    if unit == "auto":
        return [*named, "pair"][0]
    if unit in kinds and unit not in named:
        column = unit.split("_")[0]
        raise UnitError(
            f"baselines.maxmin.unit: expected training pairs that name their {column} for "
            f"unit={unit}, found none; give data with a {column} column, or set unit=auto"
        )
    return unit


def number_units(label_N: np.ndarray, chunk: int, order_N: np.ndarray) -> np.ndarray:
    """(N,) unit of every row, numbered from 0: runs of ``chunk`` rows of one label.

    The rows of a label are cut in the given order; the last unit of each may be short.
    """
    sorted_N = order_N[np.argsort(label_N[order_N], kind="stable")]
    _, first_L, rows_L = np.unique(label_N[sorted_N], return_index=True, return_counts=True)
    place_N = np.arange(label_N.size) - np.repeat(first_L, rows_L)
    unit_N = np.empty(label_N.size, np.int64)
    unit_N[sorted_N] = np.cumsum(place_N % chunk == 0) - 1
    return unit_N


def refill(score_UxK: Array, cluster_U: Array, minimum: int) -> tuple[Array, Array]:
    """Give every cluster ``minimum`` units: (U,) new clusters and (K,) units that each was given.

    A cluster that lacks some takes the units with the lowest score under their own heads from the
    clusters that can spare them. ``minimum`` times K may be U at most.
    """
    units, clusters = score_UxK.shape
    own_U = jnp.take_along_axis(score_UxK, cluster_U[:, None], axis=1)[:, 0]

    def fill(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        cluster_U, given_K = carry
        count_K = jnp.bincount(cluster_U, length=clusters)
        lacking = jnp.maximum(minimum - count_K[k], 0)
        order_U = jnp.lexsort((own_U, cluster_U))
        first_K = jnp.cumsum(count_K) - count_K
        place_U = jnp.zeros(units, int).at[order_U].set(jnp.arange(units)) - first_K[cluster_U]
        spare_U = place_U < count_K[cluster_U] - minimum
        worst_U = jnp.argsort(jnp.where(spare_U, own_U, jnp.inf))
        rank_U = jnp.zeros(units, int).at[worst_U].set(jnp.arange(units))
        moved_U = spare_U & (rank_U < lacking)
        return jnp.where(moved_U, k, cluster_U), given_K.at[k].set(jnp.sum(moved_U))

    return jax.lax.fori_loop(0, clusters, fill, (cluster_U, jnp.zeros(clusters, int)))


def label_log_weights(cluster_N: Array, label_N: Array, clusters: int, count: int) -> Array:
    """Log shares of the clusters among the rows of every label, then among all: (count + 1, K)."""
    member_NxK = jax.nn.one_hot(cluster_N, clusters)
    rows_LxK = jax.ops.segment_sum(member_NxK, label_N, count)
    overall_1xK = jnp.mean(member_NxK, axis=0, keepdims=True)
    total_Lx1 = jnp.sum(rows_LxK, axis=1, keepdims=True)
    share_LxK = jnp.where(total_Lx1 > 0, rows_LxK / jnp.maximum(total_Lx1, 1.0), overall_1xK)
    share_LxK = jnp.concatenate([share_LxK, overall_1xK])
    return jax.nn.log_softmax(jnp.log(jnp.maximum(share_LxK, SHARE_FLOOR)), axis=-1)


def own_log_prob(kernel_DxK: Array, delta_NxD: Array, cluster_N: Array) -> Array:
    """``log sigmoid`` of every row's margin under the head of its cluster: (N,), in nats."""
    delta_NxK = delta_NxD @ kernel_DxK
    return -head_nll(jnp.take_along_axis(delta_NxK, cluster_N[:, None], axis=1)[:, 0])


def fit_heads(
    kernel_DxK: Array, delta_NxD: Array, cluster_N: Array, config: TrainConfig, key: Array
) -> tuple[Array, Array]:
    """Bradley-Terry of every head on the rows of its cluster, from where it stands.

    Returns the heads and which of them were refused (K,), as they explained their rows less well.
    """
    count = delta_NxD.shape[0]

    def loss(kernel_DxK: Array, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
        rows_B = batch.rows
        log_prob_B = own_log_prob(kernel_DxK, delta_NxD[rows_B], cluster_N[rows_B])
        return -jnp.sum(log_prob_B * batch.mask) / jnp.sum(batch.mask), {}

    def by_head(kernel_DxK: Array) -> Array:
        log_prob_N = own_log_prob(kernel_DxK, delta_NxD, cluster_N)
        return jax.ops.segment_sum(log_prob_N, cluster_N, kernel_DxK.shape[1])

    fitted_DxK, _ = run_epochs(
        Stopping(config.epochs),
        kernel_DxK,
        make_optimiser(config, total_steps(config, count)),
        loss,
        shuffle_rows(key, count, config.batch_size),
    )
    refused_K = ~(by_head(fitted_DxK) >= by_head(kernel_DxK))
    return jnp.where(refused_K[None], kernel_DxK, fitted_DxK), refused_K


@partial(jax.jit, static_argnames=("size", "config"))
def hard_em(
    start_DxK: Array,
    rows: Clustered,
    held_out: Clustered,
    key: Array,
    size: Size,
    config: TrainConfig,
) -> tuple[tuple[Array, Array], Rounds]:
    """Rounds of fitting heads and assigning units; the round best by ``held_out`` is kept.

    Returns its heads (D, K) with their log weights by label (labelled + 1, K), and the curves.
    """
    clusters = start_DxK.shape[1]
    minimum = max(int(MINIMUM_SHARE * size.units / clusters), 1)
    rows_Ux1 = jax.ops.segment_sum(jnp.ones((rows.unit_N.size, 1)), rows.unit_N, size.units)

    def advance(carry: tuple[Any, ...], number: Array) -> tuple[tuple[Any, ...], Rounds]:
        kernel_DxK, cluster_U, best, best_nll = carry
        round_key = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE_STREAM), number)
        kernel_DxK, refused_K = fit_heads(
            kernel_DxK, rows.delta_NxD, cluster_U[rows.unit_N], config, round_key
        )
        log_prob_NxK = -head_nll(rows.delta_NxD @ kernel_DxK)
        score_UxK = jax.ops.segment_sum(log_prob_NxK, rows.unit_N, size.units) / rows_Ux1
        cluster_U, given_K = refill(score_UxK, jnp.argmax(score_UxK, axis=1), minimum)
        cluster_N = cluster_U[rows.unit_N]
        weights_LxK = label_log_weights(cluster_N, rows.label_N, clusters, size.labelled)
        nll = jnp.mean(mixture_nll(held_out.delta_NxD @ kernel_DxK, weights_LxK[held_out.label_N]))
        best = jax.tree.map(partial(jnp.where, nll < best_nll), (kernel_DxK, weights_LxK), best)
        own = jnp.mean(own_log_prob(kernel_DxK, rows.delta_NxD, cluster_N))
        guards = (jnp.sum(given_K), jnp.sum(given_K > 0), jnp.sum(refused_K))
        return (kernel_DxK, cluster_U, best, jnp.minimum(nll, best_nll)), Rounds(own, nll, *guards)

    deal_U = jax.random.permutation(jax.random.fold_in(key, DEAL_STREAM), size.units) % clusters
    none = (start_DxK, jnp.zeros((size.labelled + 1, clusters)))
    carry = (start_DxK, deal_U, none, jnp.array(jnp.inf))
    (_, _, best, _), curves = jax.lax.scan(advance, carry, jnp.arange(size.rounds))
    return best, curves


def _maxmin_em(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    settings, train = problem.baselines.maxmin, problem.train
    kind = unit_kind(settings.unit, train)
    label_N = unit_labels(kind, train)
    # Rows that name nobody belong to no unit.
    kept_N = np.flatnonzero((label_N != NO_LABEL) | (kind == "pair"))
    order_N = jax.random.permutation(jax.random.fold_in(problem.key, UNIT_STREAM), kept_N.size)
    rows_of_unit = {"user": kept_N.size, "attribute_chunk": settings.chunk, "pair": 1}[kind]
    unit_N = number_units(label_N[kept_N], rows_of_unit, np.asarray(order_N))
    units = int(unit_N.max()) + 1
    clusters = min(problem.train_config.num_heads, units)

    rows = Clustered(*map(jnp.asarray, (train.rows.delta_NxD[kept_N], unit_N, label_N[kept_N])))
    held_out, seen = rows, problem.validation
    if seen.user_N.size:
        # Weighed by their label; their unit is never read.
        seen_N = jnp.asarray(unit_labels(kind, seen))
        held_out = Clustered(jnp.asarray(seen.rows.delta_NxD), seen_N, seen_N)
    heads_key = jax.random.fold_in(problem.key, HEADS_STREAM)
    (kernel_DxK, log_weights_LxK), rounds = hard_em(
        RewardHeads(problem.width, clusters, heads_key).kernel[...],
        rows,
        held_out,
        problem.key,
        Size(units, int(label_N.max()) + 1, settings.rounds),
        replace(problem.train_config, learning_rate=settings.learning_rate, epochs=settings.epochs),
    )
    curves = {name: np.asarray(curve, np.float32) for name, curve in rounds._asdict().items()}
    if not np.isfinite(curves["validation_nll"]).any():
        raise DivergenceError(
            f"hard EM with {clusters} heads diverged (no round has a finite loss); lower "
            "baselines.maxmin.learning_rate or set train.features=standardized"
        )
    return Trained(
        {"heads": {"kernel": np.asarray(kernel_DxK)}, "log_weights": np.asarray(log_weights_LxK)},
        {
            "unit": kind,
            "supervised": kind == "attribute_chunk",
            "num_heads": clusters,
            "units": units,
            "rows_without_unit": int(label_N.size - kept_N.size),
            "kept_round": int(np.nanargmin(curves["validation_nll"])) + 1,
            "cluster_shares": np.exp(np.asarray(log_weights_LxK)[-1]).tolist(),
            **{name: int(curves[name].sum()) for name in Rounds._fields[2:]},
        },
        curves,
    )


def _predict(trained: Trained, examples: Examples) -> Prediction:
    log_weights_LxK = np.asarray(trained.params["log_weights"])
    # NO_LABEL and labels beyond those of the training rows take the last weights.
    label_N = unit_labels(trained.settings["unit"], examples)
    place_N = np.minimum(label_N, len(log_weights_LxK) - 1)
    return predict_heads(
        "R1",
        np.asarray(margins(trained.params["heads"], examples.rows.delta_NxD)),
        log_weights_LxK[None, place_N],
    )


MAXMIN_EM = Method(
    "maxmin_em",
    "MaxMin-RLHF's hard EM: every user has one of K heads; without users, every chunk of rows of "
    "one attribute (which reads the labels), or every pair.",
    stage="train",
    fit=_maxmin_em,
    predict=_predict,
    given="group",
    own_heads=True,
)
