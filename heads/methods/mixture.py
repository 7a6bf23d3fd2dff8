"""The three stage-1 rows of the tables; they differ in their model and in nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ...common.errors import UserError
from ..divergence import DivergenceError, divergence
from ..ensemble import cut_heads, draw, make_mesh, member, pad_heads, spread, stack_to
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
# Number of heads and kind of router of the mixture that a problem asks for.
MixtureShape = Callable[[Problem], tuple[int, RouterKind]]


def fit_mixture(problem: Problem, num_heads: int, router: RouterKind) -> Trained:
    """Train ``num_heads`` heads under a router of the given kind on the plain pairs."""
    return _only(fit_mixtures(lambda _: (num_heads, router), [problem], [{}], 0))


def mixture_program(
    shape: MixtureShape, problem: Problem, _done: Mapping[str, Trained]
) -> tuple[Hashable, ...]:
    """What members of one program have in common: rows, router, settings. The seed may differ."""
    _, router = shape(problem)
    rows = id(problem.train), id(problem.validation)
    return *rows, router, shared_settings(problem.train_config)


def fit_mixtures(
    shape: MixtureShape,
    problems: Sequence[Problem],
    _done: Sequence[Mapping[str, Trained]],
    capacity: int,
) -> list[Trained | UserError]:
    """Train the model of every problem in one program; they share ``mixture_program``.

    All are padded to the largest number of heads, and to ``capacity`` of them at least.
    """
    config, heads = problems[0].train_config, [shape(problem)[0] for problem in problems]
    _, router = shape(problems[0])
    spec = ModelSpec(
        problems[0].width, max(*heads, capacity, 1), router, config.router_units, config.precision
    )
    params_S, curves_S = _fit_group(spec, problems, heads)
    return [
        _unpad(spec, problem, count, *member((params_S, curves_S), index))
        for index, (problem, count) in enumerate(zip(problems, heads, strict=True))
    ]


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
    # Every device gets as many members: the last one is repeated, and its copies are ignored.
    count = len(keys) + (0 if mesh is None else -len(keys) % mesh.shape["sweep"])
    params_S, hyper_S = draw(spec, stack_to(keys, count)), stack_to(hypers, count)
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


def _unpad(
    spec: ModelSpec, problem: Problem, num_heads: int, params: Any, curves: Any
) -> Trained | UserError:
    """One member with its own heads only; an error if its training diverged. Arrays are NumPy's."""
    epochs = int(np.sum(curves.objective != NOT_RUN))
    what, config = f"training {num_heads} heads", problem.train_config
    setting = f" (learning rate {config.learning_rate:g}, clip {config.clip:g})"
    error = divergence(what, curves.bad_step[:epochs], REMEDY, member=setting)
    if error is None and not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        error = DivergenceError(f"{what} diverged in the last step{setting}; {REMEDY}")
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


def _only(results: list[Trained | UserError]) -> Trained:
    """The one model; raises the error that stands for it."""
    (result,) = results
    if isinstance(result, UserError):
        raise result
    return result


def predict_routed(trained: Trained, examples: Examples) -> Prediction:
    """Heads under the router of every draw, decided by the mixture probability (R1)."""
    # Padded to a multiple, so that members of a sweep share their compiled predictions.
    num_heads = trained.spec.num_heads
    capacity = math.ceil(num_heads / HEADS_MULTIPLE) * HEADS_MULTIPLE
    spec = replace(trained.spec, num_heads=capacity)
    heads, router = (pad_heads(trained.params[part], capacity) for part in ("heads", "router"))
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
    name: str,
    summary: str,
    shape: MixtureShape,
    *,
    rank: int,
    own_heads: bool = False,
    routes: bool = False,
) -> Method:
    many: FitMany = partial(fit_mixtures, shape)
    return Method(
        name,
        summary,
        stage="train",
        fit=lambda problem, _done: _only(many([problem], [{}], 0)),
        predict=predict_routed,
        fit_many=many,
        program=partial(mixture_program, shape),
        own_heads=own_heads,
        routes=routes,
        streams=True,
        default_for=("context", "prompt"),
        rank=rank,
    )


SINGLE_BT = _method(
    "single_bt", "One Bradley-Terry reward for everybody.", lambda _: (1, "static"), rank=5
)
STATIC_MIXTURE = _method(
    "static_mixture",
    "K reward heads under one fixed set of weights, the same for every prompt.",
    lambda problem: (problem.train_config.num_heads, "static"),
    rank=4,
    own_heads=True,
)
MICRO_STAGE1 = _method(
    "micro_stage1",
    "MiCRo before stage 2: K reward heads and a router that learned from plain pairs.",
    lambda problem: (problem.train_config.num_heads, problem.train_config.router),
    rank=3,
    own_heads=True,
    routes=True,
)
