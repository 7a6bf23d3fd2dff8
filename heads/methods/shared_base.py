"""Shared-base ensemble: K heads, each a trained part plus a frozen random prior.

Head k is ``theta_k + beta p_k``; prior and trained part start from the same uniform(+-1/sqrt D),
and every head has a Bradley-Terry loss of its own, with equal weight (Lee et al., arXiv 2412.08812;
MiCRo paper, section 5.1). A linear prior lies in the span of the head that is trained on top of it
and the loss is convex, so training to the end cancels the prior: every head becomes the single
reward. The official ensemble differs only because it stops after one epoch. Pulling theta (and not
the whole head) towards zero keeps what the data do not contradict of each prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...configs.train import TrainConfig
from ..divergence import DivergenceError
from ..epochs import Batches, Stopping, run_epochs, shuffle_rows
from ..lbfgs import minimise
from ..losses import head_nll
from ..model import RewardHeads, margins
from ..reweighting import uniform_log_weights
from ..rows import Rows
from ..training import make_optimiser, total_steps
from .interface import Examples, Method, Prediction, Problem, Trained, predict_heads
from .single_bt_exact import RIDGE

THETA_STREAM, PRIOR_STREAM, SHUFFLE_STREAM = 500, 501, 502
# One pass over batches of 8 rows on each of 8 GPUs, whatever stage 1 takes.
OFFICIAL_EPOCHS, OFFICIAL_BATCH = 1, 64
STEPS, TOLERANCE = 200, 1e-6


def ensemble_nll(theta_DxK: Array, prior_DxK: Array, delta_NxD: Array) -> Array:
    """Loss of every row under ``theta + prior``, averaged over the heads: (N,), in nats."""
    return jnp.mean(head_nll(delta_NxD @ (theta_DxK + prior_DxK)), axis=-1)


@partial(jax.jit, static_argnames=("config",))
def train_official(
    theta_DxK: Array, prior_DxK: Array, train: Rows, config: TrainConfig, key: Array
) -> tuple[Array, Array]:
    """``config.epochs`` passes of the stage-1 optimiser over theta; the prior is data here.

    Returns theta (D, K) and the mean loss per epoch (epochs,).
    """
    count = train.delta_NxD.shape[0]

    def loss(theta_DxK: Array, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
        loss_B = ensemble_nll(theta_DxK, prior_DxK, train.delta_NxD[batch.rows])
        return jnp.sum(loss_B * batch.mask) / jnp.sum(batch.mask), {}

    theta_DxK, curves = run_epochs(
        Stopping(config.epochs),
        theta_DxK,
        make_optimiser(config, total_steps(config, count)),
        loss,
        shuffle_rows(key, count, config.batch_size),
    )
    return theta_DxK, curves.objective


@partial(jax.jit, static_argnames=("steps",))
def solve_ensemble(
    theta_DxK: Array,
    prior_DxK: Array,
    delta_NxD: Array,
    anchor: float | Array,
    ridge: float | Array = 0.0,
    steps: int = STEPS,
) -> tuple[Array, Array]:
    """Full-batch L-BFGS per head on ``BT + anchor |theta|^2 / 2 + ridge |theta + prior|^2 / 2``.

    Returns theta (D, K) and the largest entry of the gradient at it for every head (K,).
    """

    def solve(start_D: Array, prior_D: Array) -> tuple[Array, Array]:
        def loss(theta_D: Array) -> Array:
            head_D = theta_D + prior_D
            penalty = anchor * jnp.sum(theta_D**2) + ridge * jnp.sum(head_D**2)
            return jnp.mean(head_nll(delta_NxD @ head_D)) + 0.5 * penalty

        return minimise(loss, start_D, steps, TOLERANCE)

    return jax.vmap(solve, in_axes=1, out_axes=(1, 0))(theta_DxK, prior_DxK)


def head_spread(kernel_DxK: Array, delta_NxD: Array) -> float:
    """Largest root mean square difference of two heads' margins on some rows; 0 if all agree."""
    margins_NxK = delta_NxD @ kernel_DxK

    # Differences themselves, one head at a time: a Gram matrix cancels where heads are close.
    def farthest(margin_N: Array) -> Array:
        return jnp.max(jnp.mean((margins_NxK - margin_N[:, None]) ** 2, axis=0))

    return float(jnp.sqrt(jnp.max(jax.lax.map(farthest, margins_NxK.T))))


def initial_parts(problem: Problem) -> tuple[Array, Array]:
    """Trained part and frozen prior before training, the latter times beta: two (D, K)."""
    size = (problem.width, problem.train_config.num_heads)
    theta_DxK, prior_DxK = (
        RewardHeads(*size, jax.random.fold_in(problem.key, stream)).kernel[...]
        for stream in (THETA_STREAM, PRIOR_STREAM)
    )
    return theta_DxK, problem.baselines.shared_base.prior_scale * prior_DxK


def _ensemble(
    problem: Problem,
    theta_DxK: Array,
    prior_DxK: Array,
    settings: Mapping[str, object],
    curve_E: Array | None = None,
) -> Trained:
    """The sum of both parts as heads: nothing downstream has to know that there were two."""
    kernel_DxK = np.asarray(theta_DxK + prior_DxK)
    if not np.isfinite(kernel_DxK).all():
        raise DivergenceError(
            f"training {kernel_DxK.shape[1]} heads with priors diverged (the heads are not "
            "finite); lower train.learning_rate or set train.features=standardized"
        )
    curves: dict[str, np.ndarray] = {}
    if curve_E is not None:
        validation = problem.validation.rows.delta_NxD
        nll = jnp.mean(ensemble_nll(theta_DxK, prior_DxK, validation))
        curves = {"objective": np.asarray(curve_E), "validation_nll": np.asarray(nll)[None]}
    return Trained(
        {"heads": {"kernel": kernel_DxK}},
        {
            "prior_scale": problem.baselines.shared_base.prior_scale,
            "head_spread": head_spread(theta_DxK + prior_DxK, problem.train.rows.delta_NxD),
            "prior_spread": head_spread(prior_DxK, problem.train.rows.delta_NxD),
            **settings,
        },
        curves,
    )


def _official(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    config = replace(problem.train_config, epochs=OFFICIAL_EPOCHS, batch_size=OFFICIAL_BATCH)
    theta_DxK, prior_DxK = initial_parts(problem)
    key = jax.random.fold_in(problem.key, SHUFFLE_STREAM)
    theta_DxK, curve_E = train_official(theta_DxK, prior_DxK, problem.train.rows, config, key)
    return _ensemble(problem, theta_DxK, prior_DxK, {"epochs": OFFICIAL_EPOCHS}, curve_E)


def _solved(
    penalties: Callable[[Problem], dict[str, float]],
) -> Callable[[Problem, Mapping[str, Trained]], Trained]:
    def fit(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
        chosen = penalties(problem)
        theta_DxK, prior_DxK = initial_parts(problem)
        theta_DxK, residual_K = solve_ensemble(
            theta_DxK, prior_DxK, problem.train.rows.delta_NxD, **chosen
        )
        settings = {**chosen, "largest_gradient": float(residual_K.max())}
        return _ensemble(problem, theta_DxK, prior_DxK, settings)

    return fit


def _predict(trained: Trained, examples: Examples) -> Prediction:
    delta_NxK = np.asarray(margins(trained.params["heads"], examples.rows.delta_NxD))
    log_weights_K = np.asarray(uniform_log_weights(delta_NxK.shape[1]))
    return predict_heads(
        "R2", delta_NxK, np.broadcast_to(log_weights_K, (1, *delta_NxK.shape)).copy()
    )


SHARED_BASE = Method(
    "shared_base",
    "Shared-base ensemble as published: K heads on frozen random priors, one epoch, averaged.",
    stage="train",
    fit=_official,
    predict=_predict,
    rule="R2",
    own_heads=True,
)
SHARED_BASE_CONVERGED = Method(
    "shared_base_converged",
    "Shared-base ensemble trained to the end, where every head becomes the single reward.",
    stage="train",
    # On the whole head, as for the single reward: it has a finite optimum and the same one.
    fit=_solved(lambda _: {"anchor": 0.0, "ridge": RIDGE}),
    predict=_predict,
    rule="R2",
    own_heads=True,
)
SHARED_BASE_ANCHORED = Method(
    "shared_base_anchored",
    "Shared-base ensemble solved under an L2 anchor that lets every head keep some of its prior.",
    stage="train",
    fit=_solved(lambda problem: {"anchor": problem.baselines.shared_base.anchor, "ridge": 0.0}),
    predict=_predict,
    rule="R2",
    own_heads=True,
)
