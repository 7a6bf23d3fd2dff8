"""MiCRo after stage 2: stage-1 heads under routers fitted to a few context-labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ..hedge import AdaptData, fit_router
from ..model import margins
from .interface import Budget, Method, Problem, Trained
from .mixture import predict_routed


def _micro(problem: Problem, done: Mapping[str, Trained]) -> Trained:
    stage1, budget = done["micro_stage1"], problem.budget
    assert budget is not None  # the stage leaves the method out without one
    if budget.mask_SxB.shape[1] == 0:
        return Trained(stage1.params, stage1.settings)
    start = jax.tree.map(lambda leaf: leaf[0], stage1.params["router"])
    heads = stage1.params["heads"]
    data = AdaptData(
        margins(heads, budget.rows.delta_NxD),
        budget.rows.router_input_NxD,
        jnp.asarray(budget.mask_SxB),
        jnp.asarray(_pools(budget, problem.adapt_config.targets)),
    )

    def adapt(draw: jax.Array, data: AdaptData) -> tuple[dict, jax.Array]:
        key = jax.random.fold_in(jax.random.fold_in(problem.key, 2), draw)
        return fit_router(stage1.spec, start, data, problem.adapt_config, key)

    routers, curves_SxE = jax.vmap(adapt)(jnp.arange(budget.draws), data)
    return Trained(
        {"heads": heads, "router": routers},
        stage1.settings,
        {"cross_entropy": np.asarray(curves_SxE).mean(axis=0)},
    )


def _pools(budget: Budget, targets: str) -> np.ndarray:
    """(S, B) numbers below B: rows with the same number share their Hedge targets' losses."""
    places = budget.mask_SxB.shape[1]
    labels_SxB = {
        "example": np.broadcast_to(np.arange(places), budget.mask_SxB.shape),
        "wording": budget.wording_SxB,
        "group": np.broadcast_to(budget.group_B, budget.mask_SxB.shape),
    }[targets]
    return np.stack([np.unique(labels_B, return_inverse=True)[1] for labels_B in labels_SxB])


MICRO = Method(
    "micro",
    "MiCRo: stage-1 heads under a router taught by Hedge from a few pairs with stated wishes.",
    stage="adapt",
    fit=_micro,
    predict=predict_routed,
    after=("micro_stage1",),
    needs=("groups", "contexts"),
    told="wish",
    routes=True,
)
