"""MiCRo after stage 2: stage-1 heads under routers fitted to a few context-labelled pairs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ...common.errors import UserError
from ..ensemble import by_key, cut_heads, pad_heads, stack, stack_to
from ..hedge import LabelledDraws, RouterHyperparams, RouterModels, fit_routers
from .interface import Budget, Method, Problem, Trained
from .mixture import predict_routed

STREAM = 2


def _micro(problem: Problem, done: Mapping[str, Trained]) -> Trained:
    (result,) = _micro_many([problem], [done], 0)
    assert isinstance(result, Trained)
    return result


def _micro_program(problem: Problem, done: Mapping[str, Trained]) -> tuple[Hashable, ...]:
    """What members of one program have in common: shapes, and settings that are compiled in."""
    assert problem.budget is not None  # the stage leaves the method out without one
    config, spec = problem.adapt_config, replace(done["micro_stage1"].spec, num_heads=1)
    return problem.budget.mask_SxB.shape, config.epochs, config.batch_size, spec


def _micro_many(
    problems: Sequence[Problem], done: Sequence[Mapping[str, Trained]], capacity: int
) -> list[Trained | UserError]:
    """Stage 2 of every problem in one program; they share ``_micro_program``."""
    stage1 = [models["micro_stage1"] for models in done]
    config, budget = problems[0].adapt_config, problems[0].budget
    assert budget is not None
    if budget.mask_SxB.shape[1] == 0:
        # Nothing to learn from: the routers stay as stage 1 has left them.
        return [Trained(one.params, one.settings) for one in stage1]
    num_heads = max(capacity, *(one.spec.num_heads for one in stage1))
    spec = replace(stage1[0].spec, num_heads=num_heads)
    # U sets of members with the same labelled rows and seed; a set reads its rows once.
    seeds = [jax.random.key_data(problem.key).tobytes() for problem in problems]
    sets = by_key([(id(one.budget), seed) for one, seed in zip(problems, seeds, strict=True)])
    most = max(map(len, sets))
    models = [
        stack_to([_model(problems[index], stage1[index], num_heads) for index in indices], most)
        for indices in sets
    ]
    firsts = [problems[indices[0]] for indices in sets]
    draws = stack([_draws(first.budget) for first in firsts])
    keys = stack([jax.random.fold_in(first.key, STREAM) for first in firsts])
    # One draw after the other on a CPU, all together where launches cost more than memory.
    at_once = 1 if jax.default_backend() == "cpu" else draws.mask_SxN.shape[1]
    fitted_UxSxM = jax.tree.map(
        np.asarray,
        fit_routers(spec, config.epochs, config.batch_size, at_once, stack(models), draws, keys),
    )
    results: dict[int, Trained | UserError] = {}
    for row, indices in enumerate(sets):
        for column, index in enumerate(indices):
            router_S, curve_SxE = jax.tree.map(
                lambda leaf, row=row, column=column: leaf[row, :, column], fitted_UxSxM
            )
            results[index] = Trained(
                {
                    "heads": stage1[index].params["heads"],
                    "router": cut_heads(router_S, stage1[index].spec.num_heads),
                },
                stage1[index].settings,
                {"cross_entropy": curve_SxE.mean(axis=0)},
            )
    return [results[index] for index in range(len(problems))]


def _model(problem: Problem, stage1: Trained, capacity: int) -> RouterModels:
    """One member: where its router starts, its heads and scalars, padded to ``capacity`` heads."""
    assert problem.budget is not None
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[0], stage1.params["router"])
    return RouterModels(
        pad_heads(start, capacity),
        pad_heads(stage1.params["heads"], capacity),
        RouterHyperparams.from_config(problem.adapt_config, stage1.spec.num_heads),
        jnp.asarray(_pools(problem.budget, problem.adapt_config.targets)),
    )


def _draws(budget: Budget | None) -> LabelledDraws:
    assert budget is not None
    return LabelledDraws(
        budget.rows.delta_NxD, budget.rows.router_input_NxD, jnp.asarray(budget.mask_SxB)
    )


def _pools(budget: Budget, targets: str) -> np.ndarray:
    """(S, B) numbers below B: rows with the same number share their Hedge targets' losses."""
    count = budget.mask_SxB.shape[1]
    labels_SxB = {
        "example": np.broadcast_to(np.arange(count), budget.mask_SxB.shape),
        "wording": budget.wording_SxB,
        "group": np.broadcast_to(budget.group_B, budget.mask_SxB.shape),
    }[targets]
    return np.stack([np.unique(labels_B, return_inverse=True)[1] for labels_B in labels_SxB])


MICRO = Method(
    "micro",
    "MiCRo: stage-1 heads under a router taught by Hedge from a few pairs with contexts.",
    stage="adapt",
    fit=_micro,
    predict=predict_routed,
    after=("micro_stage1",),
    needs=("groups", "contexts"),
    given="context",
    routes=True,
    streams=True,
    default_for=("context",),
    rank=0,
    fit_many=_micro_many,
    program=_micro_program,
)
