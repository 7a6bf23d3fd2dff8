"""MiCRo after stage 2: stage-1 heads under routers fitted to a few context-labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ..hedge import AdaptData, fit_router
from ..model import margins
from ..training import Rows
from .interface import Method, Problem, Trained


def _micro(problem: Problem, done: Mapping[str, Trained]) -> Trained:
    stage1 = done["micro_stage1"]
    assert problem.budget is not None  # the stage leaves the method out without one
    draws = problem.budget.delta_NxD.shape[0]
    if problem.budget.delta_NxD.shape[1] == 0:
        return Trained(stage1.spec, stage1.params)
    start = jax.tree.map(lambda leaf: leaf[0], stage1.params["router"])
    heads = stage1.params["heads"]

    def adapt(draw: jax.Array, budget: Rows) -> tuple[dict, jax.Array]:
        data = AdaptData(margins(heads, budget.delta_NxD), budget.router_input_NxD)
        key = jax.random.fold_in(jax.random.fold_in(problem.key, 2), draw)
        return fit_router(stage1.spec, start, data, problem.adapt_config, key)

    routers, curves_SxE = jax.vmap(adapt)(jnp.arange(draws), problem.budget)
    return Trained(
        stage1.spec,
        {"heads": heads, "router": routers},
        {"cross_entropy": np.asarray(curves_SxE).mean(axis=0)},
    )


MICRO = Method(
    "micro",
    "MiCRo: stage-1 heads under a router taught by Hedge from a few pairs with stated wishes.",
    stage="adapt",
    fit=_micro,
    needs=("micro_stage1",),
)
