"""HyRe: the heads of another method, reweighted by their losses on a few labelled rows of a group.

Lee et al., Test-Time Alignment via Hypothesis Reweighting (arXiv 2412.08812): the weights are a
generalised posterior, the reward is the weighted sum of the heads' (rule R2). The MiCRo paper uses
16 rows per attribute, and reweights its own stage-1 heads in the same way (MiCRo-HyRe).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ..model import margins
from ..reweighting import group_log_posteriors, uniform_log_weights
from .group_weights import predict_by_group
from .interface import Fit, Method, Problem, Trained


def _reweighted(source: str) -> Fit:
    """Fit of HyRe on the heads of another method; any router of theirs is discarded."""

    def fit(problem: Problem, done: Mapping[str, Trained]) -> Trained:
        config, budget = problem.baselines.hyre, problem.budget
        assert budget is not None  # the stage leaves the method out without one
        heads = {"kernel": np.asarray(done[source].params["heads"]["kernel"])}
        num_heads = heads["kernel"].shape[1]
        # A budget of no slots has no group numbers, but the groups are there.
        groups = len(problem.groups)
        slots = budget.mask_SxB.shape[1] // groups
        count = slots if config.rows is None else min(config.rows, slots)
        shape = (budget.draws, groups, slots)
        prior_K = uniform_log_weights(num_heads)
        log_weights_SxGxK = group_log_posteriors(
            jnp.reshape(margins(heads, budget.rows.delta_NxD), (*shape, num_heads)),
            jnp.asarray(budget.mask_SxB, jnp.float32).reshape(shape),
            prior_K,
            count,
            config.query,
            config.loss,
            config.temperature,
        )
        unknown_Sx1xK = jnp.broadcast_to(prior_K, (budget.draws, 1, num_heads))
        weights_SxGxK = np.exp(np.asarray(log_weights_SxGxK, np.float64))
        entropy_SxG = -np.sum(weights_SxGxK * np.asarray(log_weights_SxGxK), axis=-1)
        return Trained(
            {
                "heads": heads,
                "log_weights": np.asarray(
                    jnp.concatenate([log_weights_SxGxK, unknown_Sx1xK], axis=1)
                ),
            },
            {
                "rule": "R2",
                "heads_of": source,
                "rows": count,
                "loss": config.loss,
                "temperature": config.temperature,
                "query": config.query,
                # 1 where the labelled rows single out one head, K where they tell nothing.
                "effective_heads": float(np.exp(entropy_SxG).mean()),
            },
        )

    return fit


def _method(name: str, source: str, summary: str, rank: int | None = None) -> Method:
    return Method(
        name,
        summary,
        stage="adapt",
        fit=_reweighted(source),
        predict=predict_by_group,
        rule="R2",
        after=(source,),
        needs=("groups",),
        given="group",
        seeded=False,
        rank=rank,
    )


HYRE = _method(
    "hyre",
    "shared_base",
    "HyRe: shared-base heads weighted by their losses on a few labelled rows of the group.",
)
HYRE_ANCHORED = _method(
    "hyre_anchored",
    "shared_base_anchored",
    "HyRe on shared-base heads that an L2 anchor keeps apart.",
)
MICRO_HYRE = _method(
    "micro_hyre",
    "micro_stage1",
    "MiCRo-HyRe: stage-1 heads without their router, weighted by their losses on a few labelled "
    "rows of the group.",
    rank=2,
)
