"""MiCRo after stage 2: stage-1 heads under routers fitted to a few context-labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import UserError
from ..ensemble import by_key, cut_heads, pad_heads, stack
from ..hedge import AdaptData, Setting, fit_routers
from ..model import margins
from .interface import Budget, Method, Problem, Trained
from .mixture import predict_routed

STREAM = 2


def _micro(problem: Problem, done: Mapping[str, Trained]) -> Trained:
    (one,) = _micro_many([problem], [done])
    assert isinstance(one, Trained)
    return one


def _micro_many(
    problems: Sequence[Problem],
    done: Sequence[Mapping[str, Trained]],
    room: int = 0,
) -> list[Trained | UserError]:
    """Stage 2 of every problem, those of one shape in one program."""
    stage1 = [models["micro_stage1"] for models in done]
    found: dict[int, Trained | UserError] = {}
    for places in by_key([_shared(*pair) for pair in zip(problems, stage1, strict=True)]):
        first = problems[places[0]]
        assert first.budget is not None  # the stage leaves the method out without one
        if first.budget.mask_SxB.shape[1] == 0:
            found |= {
                place: Trained(stage1[place].params, stage1[place].settings) for place in places
            }
            continue
        largest = max(room, *(stage1[place].spec.num_heads for place in places))
        spec = replace(stage1[places[0]].spec, num_heads=largest)
        members = stack([_member(problems[place], stage1[place], largest) for place in places])
        config = first.adapt_config
        found_M = fit_routers(spec, config.epochs, config.batch_size, *members)
        for number, place in enumerate(places):
            router, curve_SxE = jax.tree.map(lambda leaf, n=number: np.asarray(leaf[n]), found_M)
            found[place] = Trained(
                {
                    "heads": stage1[place].params["heads"],
                    "router": cut_heads(router, stage1[place].spec.num_heads),
                },
                stage1[place].settings,
                {"cross_entropy": curve_SxE.mean(axis=0)},
            )
    return [found[place] for place in range(len(problems))]


def _shared(problem: Problem, stage1: Trained) -> tuple[Any, ...]:
    """What members of one program have in common."""
    assert problem.budget is not None
    config = replace(problem.adapt_config, tau=1.0, learning_rate=1.0, weight_decay=0.0)
    spec = replace(stage1.spec, num_heads=1)
    return problem.budget.mask_SxB.shape, config.epochs, config.batch_size, spec


def _member(
    problem: Problem, stage1: Trained, largest: int
) -> tuple[Any, AdaptData, Setting, jax.Array]:
    """Start, labelled rows, scalars and key of one member, its heads padded to ``largest``."""
    budget, config = problem.budget, problem.adapt_config
    assert budget is not None
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[0], stage1.params["router"])
    heads = pad_heads(stage1.params["heads"], largest)
    data = AdaptData(
        margins(heads, budget.rows.delta_NxD),
        budget.rows.router_input_NxD,
        jnp.asarray(budget.mask_SxB),
        jnp.asarray(_pools(budget, config.targets)),
    )
    setting = Setting.of(config, stage1.spec.num_heads)
    return pad_heads(start, largest), data, setting, jax.random.fold_in(problem.key, STREAM)


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
    fit_many=_micro_many,
)
