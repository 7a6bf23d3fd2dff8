"""The three stage-1 rows of the tables; they differ in their model and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ... import UserError
from ..ensemble import by_key, cut_heads, draw, make_mesh, member_bytes, split, spread, stack
from ..features import RowSource
from ..model import ModelSpec, RouterKind, log_weights, margins
from ..streaming import fit_streamed
from ..training import NOT_RUN, Curves, Member, Plan, Rows, fit_members
from .interface import Examples, FitMany, Method, Prediction, Problem, Trained, predict_heads

PARAMS_STREAM, SHUFFLE_STREAM = 0, 2
Model = Callable[[Problem], tuple[int, RouterKind]]


class DivergenceError(UserError):
    """Training ended in NaN or infinity; the message says what to change."""


def fit_mixture(problem: Problem, num_heads: int, router: RouterKind) -> Trained:
    """Train ``num_heads`` heads under a router of the given kind on the plain pairs."""
    return _only(fit_mixtures(lambda _: (num_heads, router), [problem], [{}]))


def fit_mixtures(
    model: Model,
    problems: Sequence[Problem],
    _done: Sequence[Mapping[str, Trained]],
    memory: float | None = None,
) -> list[Trained | UserError]:
    """Train the model of every problem, those that share their data and shapes in one program.

    ``memory`` bounds the bytes of parameters and optimiser of one program.
    """
    models = [model(problem) for problem in problems]
    found: dict[int, Trained | UserError] = {}
    for places in by_key(
        [_shared(one, kind) for one, (_, kind) in zip(problems, models, strict=True)]
    ):
        first, kind = problems[places[0]], models[places[0]][1]
        config = first.train_config
        largest = max(models[place][0] for place in places)
        spec = ModelSpec(first.width, largest, kind, config.router_units, config.precision)
        mesh = make_mesh(config.data_devices)
        devices = 1 if mesh is None else mesh.shape["sweep"]
        validated = first.validation.group_N.size > 0
        plan = Plan.of(config, validated=validated, mesh=mesh)
        for group in split(places, member_bytes(spec), memory, devices):
            params_S, curves_S = _fit_group(
                spec,
                plan,
                [problems[place] for place in group],
                [models[place][0] for place in group],
            )
            for number, place in enumerate(group):
                found[place] = _member(spec, models[place][0], number, params_S, curves_S, config)
    return [found[place] for place in range(len(problems))]


def _shared(problem: Problem, router: RouterKind) -> tuple[Any, ...]:
    """What members of one program have in common; scalars of ``Member`` and the seed may differ."""
    alike = replace(
        problem.train_config,
        num_heads=1,
        learning_rate=1.0,
        entropy_weight=0.0,
        weight_decay=0.0,
        clip=1.0,
    )
    return id(problem.train), id(problem.validation), router, alike


def _fit_group(
    spec: ModelSpec, plan: Plan, problems: Sequence[Problem], heads: Sequence[int]
) -> tuple[Any, Curves]:
    """Stacked parameters and curves of a group of problems."""
    first = problems[0]
    keys_S = stack([jax.random.fold_in(problem.key, PARAMS_STREAM) for problem in problems])
    member_S = stack(
        [Member.of(one.train_config, count) for one, count in zip(problems, heads, strict=True)]
    )
    params_S = draw(spec, keys_S)
    key = jax.random.fold_in(jax.random.key(first.train_config.shuffle_seed), SHUFFLE_STREAM)
    stream = first.train.stream
    if stream is not None:
        held = first.validation.data
        assert isinstance(held, RowSource)
        params_S, member_S = spread(plan.mesh, (params_S, member_S), None)[0]
        return fit_streamed(spec, plan, params_S, member_S, stream, held, key)
    members, rows = spread(
        plan.mesh, (params_S, member_S), (first.train.rows, first.validation.rows)
    )
    return fit_members(spec, plan, *members, *rows, key)


def _member(
    spec: ModelSpec, num_heads: int, number: int, params_S: Any, curves_S: Curves, config: Any
) -> Trained | UserError:
    """One member with the heads that are its own, or why it has none."""
    params, curves = jax.tree.map(lambda leaf: np.asarray(leaf[number]), (params_S, curves_S))
    epochs = int(np.sum(curves.objective != NOT_RUN))
    if not np.isfinite(curves.objective[epochs - 1]):
        return DivergenceError(
            f"training {num_heads} heads diverged (objective {curves.objective[epochs - 1]} after "
            f"{epochs} epochs); lower train.learning_rate or set train.features=standardized"
        )
    own = cut_heads(params, num_heads)
    router = jax.tree.map(lambda leaf: leaf[None], own["router"])
    return Trained(
        {"heads": own["heads"], "router": router},
        {"spec": asdict(replace(spec, num_heads=num_heads, precision="float32"))},
        {"objective": curves.objective[:epochs], "validation_nll": curves.validation_nll[:epochs]},
    )


def _only(found: list[Trained | UserError]) -> Trained:
    (one,) = found
    if isinstance(one, UserError):
        raise one
    return one


def predict_routed(trained: Trained, examples: Examples) -> Prediction:
    """Heads under the router of every draw, decided by the mixture probability (R1)."""
    blocks = [
        _outputs(trained.spec, trained.params["heads"], trained.params["router"], rows)
        for rows in examples.blocks()
    ]
    delta, weights = zip(*[map(np.asarray, block) for block in blocks], strict=True)
    return predict_heads("R1", np.concatenate(delta), np.concatenate(weights, axis=1))


@partial(jax.jit, static_argnames=("spec",))
def _outputs(spec: ModelSpec, heads: Any, router_S: Any, rows: Rows) -> tuple[Array, Array]:
    """Margins (N, K) and log weights of every draw (S, N, K)."""
    route = jax.vmap(lambda router: log_weights(spec, router, rows.router_input_NxD))
    return margins(heads, rows.delta_NxD), route(router_S)


def _method(name: str, summary: str, model: Model, **traits: bool) -> Method:
    many: FitMany = partial(fit_mixtures, model)
    return Method(
        name,
        summary,
        stage="train",
        fit=lambda problem, _done: _only(many([problem], [{}])),
        predict=predict_routed,
        fit_many=many,
        **traits,
    )


SINGLE_BT = _method("single_bt", "One Bradley-Terry reward for everybody.", lambda _: (1, "static"))
STATIC_MIXTURE = _method(
    "static_mixture",
    "K reward heads under one fixed set of weights, the same for every prompt.",
    lambda problem: (problem.train_config.num_heads, "static"),
    own_heads=True,
)
MICRO_STAGE1 = _method(
    "micro_stage1",
    "MiCRo before stage 2: K reward heads and a router that learned from plain pairs.",
    lambda problem: (problem.train_config.num_heads, problem.train_config.router),
    own_heads=True,
    routes=True,
)
