"""The three stage-1 rows of the tables; they differ in their model and in nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ...common.errors import UserError
from ..divergence import DivergenceError, divergence
from ..ensemble import by_key, cut_heads, draw, make_mesh, pad_heads, spread, stack
from ..epochs import NOT_RUN, Curves
from ..features import RowSource
from ..model import ModelSpec, RouterKind, log_weights, margins
from ..rows import Rows
from ..streaming import fit_streamed
from ..training import Hyperparams, TrainSpec, fit_members, shared_settings
from .interface import Examples, FitMany, Method, Prediction, Problem, Trained, predict_heads

PARAMS_STREAM, SHUFFLE_STREAM = 0, 2
HEADS_MULTIPLE = 16
REMEDY = "lower train.learning_rate or set train.features=standardized"
Model = Callable[[Problem], tuple[int, RouterKind]]


def fit_mixture(problem: Problem, num_heads: int, router: RouterKind) -> Trained:
    """Train ``num_heads`` heads under a router of the given kind on the plain pairs."""
    return _only(fit_mixtures(lambda _: (num_heads, router), [problem], [{}]))


def fit_mixtures(
    model: Model,
    problems: Sequence[Problem],
    _done: Sequence[Mapping[str, Trained]],
    room: int = 0,
) -> list[Trained | UserError]:
    """Train the model of every problem, those that share their data and shapes in one program.

    All have room for the largest number of heads, and for ``room`` of them at least.
    """
    models = [model(problem) for problem in problems]
    keys = [_shared(one, kind) for one, (_, kind) in zip(problems, models, strict=True)]
    found: dict[int, Trained | UserError] = {}
    for group in by_key(keys):
        first, kind = problems[group[0]], models[group[0]][1]
        heads = [models[place][0] for place in group]
        config = first.train_config
        spec = ModelSpec(
            first.width, max(*heads, room, 1), kind, config.router_units, config.precision
        )
        params_S, curves_S = _fit_group(spec, [problems[place] for place in group], heads)
        for number, (place, count) in enumerate(zip(group, heads, strict=True)):
            found[place] = _member(spec, problems[place], count, number, params_S, curves_S)
    return [found[place] for place in range(len(problems))]


def _shared(problem: Problem, router: RouterKind) -> tuple[Any, ...]:
    """What members of one program have in common; the seed may differ."""
    return id(problem.train), id(problem.validation), router, shared_settings(problem.train_config)


def _fit_group(
    spec: ModelSpec, problems: Sequence[Problem], heads: Sequence[int]
) -> tuple[Any, Curves]:
    """Stacked parameters and curves of a group of problems."""
    first, config = problems[0], problems[0].train_config
    mesh = make_mesh(config.data_devices)
    train_spec = TrainSpec.from_config(
        config, validated=first.validation.group_N.size > 0, mesh=mesh
    )
    keys = [jax.random.fold_in(problem.key, PARAMS_STREAM) for problem in problems]
    hypers = [
        Hyperparams.from_config(one.train_config, count)
        for one, count in zip(problems, heads, strict=True)
    ]
    # Every device gets as many members; those that repeat the last one are left out again.
    lacking = 0 if mesh is None else -len(keys) % mesh.shape["sweep"]
    params_S = draw(spec, stack(keys + keys[-1:] * lacking))
    hyper_S = stack(hypers + hypers[-1:] * lacking)
    key = jax.random.fold_in(jax.random.key(config.shuffle_seed), SHUFFLE_STREAM)
    stream, held_out = first.train.stream, first.validation.data
    if stream is not None:
        assert isinstance(held_out, RowSource)
        (params_S, hyper_S), _ = spread(mesh, (params_S, hyper_S), ())
        return fit_streamed(spec, train_spec, params_S, hyper_S, stream, held_out, key)
    (params_S, hyper_S), rows = spread(
        mesh, (params_S, hyper_S), (first.train.rows, first.validation.rows)
    )
    return fit_members(spec, train_spec, params_S, hyper_S, *rows, key)


def _member(
    spec: ModelSpec,
    problem: Problem,
    num_heads: int,
    number: int,
    params_S: Any,
    curves_S: Curves,
) -> Trained | UserError:
    """One member with the heads that are its own, or why it has none."""
    params, curves = jax.tree.map(lambda leaf: np.asarray(leaf[number]), (params_S, curves_S))
    epochs = int(np.sum(curves.objective != NOT_RUN))
    what, config = f"training {num_heads} heads", problem.train_config
    member = f" (learning rate {config.learning_rate:g}, clip {config.clip:g})"
    error = divergence(what, curves.bad_step[:epochs], REMEDY, member=member)
    if error is None and not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        error = DivergenceError(f"{what} diverged in the last step{member}; {REMEDY}")
    if error is not None:
        return error
    own = cut_heads(params, num_heads)
    router = jax.tree.map(lambda leaf: leaf[None], own["router"])
    return Trained(
        {"heads": own["heads"], "router": router},
        {
            "spec": asdict(replace(spec, num_heads=num_heads, precision="float32")),
            "first_loss": float(curves.first_loss[0]),
        },
        {
            "objective": curves.objective[:epochs],
            "validation_nll": curves.validation_nll[:epochs],
        },
    )


def _only(found: list[Trained | UserError]) -> Trained:
    (one,) = found
    if isinstance(one, UserError):
        raise one
    return one


def predict_routed(trained: Trained, examples: Examples) -> Prediction:
    """Heads under the router of every draw, decided by the mixture probability (R1)."""
    # Room for a multiple of heads: members of a sweep share their compiled predictions.
    num_heads = trained.spec.num_heads
    room = math.ceil(num_heads / HEADS_MULTIPLE) * HEADS_MULTIPLE
    spec = replace(trained.spec, num_heads=room)
    heads, router = (pad_heads(trained.params[part], room) for part in ("heads", "router"))
    blocks = [_outputs(spec, num_heads, heads, router, rows) for rows in examples.blocks()]
    delta, weights = zip(*blocks, strict=True)
    return predict_heads(
        "R1",
        np.concatenate(delta)[:, :num_heads],
        np.concatenate(weights, axis=1)[..., :num_heads],
    )


@partial(jax.jit, static_argnames=("spec",))
def _outputs(
    spec: ModelSpec, num_heads: Array | int, heads: Any, router_S: Any, rows: Rows
) -> tuple[Array, Array]:
    """Margins (N, K) and log weights of every draw (S, N, K)."""
    route = partial(log_weights, spec, router_input_NxD=rows.router_input_NxD, num_heads=num_heads)
    return margins(heads, rows.delta_NxD), jax.vmap(route)(router_S)


def _method(
    name: str, summary: str, model: Model, *, own_heads: bool = False, routes: bool = False
) -> Method:
    many: FitMany = partial(fit_mixtures, model)
    return Method(
        name,
        summary,
        stage="train",
        fit=lambda problem, _done: _only(many([problem], [{}])),
        predict=predict_routed,
        fit_many=many,
        own_heads=own_heads,
        routes=routes,
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
