"""MiCRo after stage 2: stage-1 heads under routers fitted to a few context-labelled pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...common.errors import UserError
from ..ensemble import by_key, cut_heads, pad_heads, stack
from ..hedge import LabelledDraws, RouterHyperparams, RouterModels, fit_routers
from ..model import ModelSpec
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
        for place, trained in _fit_group(spec, places, problems, stage1):
            found[place] = trained
    return [found[place] for place in range(len(problems))]


def _shared(problem: Problem, stage1: Trained) -> tuple[Any, ...]:
    """What members of one program have in common."""
    assert problem.budget is not None
    config, spec = problem.adapt_config, replace(stage1.spec, num_heads=1)
    return problem.budget.mask_SxB.shape, config.epochs, config.batch_size, spec


def _fit_group(
    spec: ModelSpec, places: list[int], problems: Sequence[Problem], stage1: Sequence[Trained]
) -> Iterator[tuple[int, Trained]]:
    """The members at some places, those with the same labelled rows and seed side by side."""
    seeds = [jax.random.key_data(problems[place].key).tobytes() for place in places]
    same = by_key([(id(problems[p].budget), seed) for p, seed in zip(places, seeds, strict=True)])
    sets = [[places[number] for number in numbers] for numbers in same]
    most = max(map(len, sets))
    # Every set has as many members; those that repeat the last one are left out again.
    members = [
        stack(
            [
                _member(problems[place], stage1[place], spec.num_heads)
                for place in one + one[-1:] * (most - len(one))
            ]
        )
        for one in sets
    ]
    firsts = [problems[one[0]] for one in sets]
    config = firsts[0].adapt_config
    draws = stack([_draws(first.budget) for first in firsts])
    keys = stack([jax.random.fold_in(first.key, STREAM) for first in firsts])
    # One draw after the other on a CPU, all together where launches cost more than memory.
    at_once = 1 if jax.default_backend() == "cpu" else draws.mask_SxN.shape[1]
    found = fit_routers(
        spec, config.epochs, config.batch_size, at_once, stack(members), draws, keys
    )
    found = jax.tree.map(np.asarray, found)
    for number, one in enumerate(sets):
        for column, place in enumerate(one):
            router, curve_SxE = jax.tree.map(lambda leaf, n=number, m=column: leaf[n, :, m], found)
            heads, count = stage1[place].params["heads"], stage1[place].spec.num_heads
            yield (
                place,
                Trained(
                    {"heads": heads, "router": cut_heads(router, count)},
                    stage1[place].settings,
                    {"cross_entropy": curve_SxE.mean(axis=0)},
                ),
            )


def _member(problem: Problem, stage1: Trained, room: int) -> RouterModels:
    """One member: its start, heads and scalars, padded to room for so many heads."""
    assert problem.budget is not None
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[0], stage1.params["router"])
    return RouterModels(
        pad_heads(start, room),
        pad_heads(stage1.params["heads"], room),
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
