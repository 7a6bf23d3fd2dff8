"""The three stage-1 rows of the tables; they differ in their model and in nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import jax
import numpy as np

from ... import UserError
from ..model import ModelSpec, RouterKind, init, log_weights, margins
from ..training import fit
from .interface import Examples, Method, Prediction, Problem, Trained, one_draw, predict_heads


class DivergenceError(UserError):
    """Training ended in NaN or infinity; the message says what to change."""


def fit_mixture(problem: Problem, num_heads: int, router: RouterKind) -> Trained:
    """Train ``num_heads`` heads under a router of the given kind on the plain pairs."""
    config = problem.train_config
    spec = ModelSpec(problem.width, num_heads, router, config.router_units)
    params = init(spec, jax.random.fold_in(problem.key, 0))
    params, curves = fit(
        spec,
        params,
        problem.train.rows,
        problem.validation.rows,
        config,
        jax.random.fold_in(problem.key, 1),
    )
    if not np.isfinite(curves.objective[-1]):
        raise DivergenceError(
            f"training {num_heads} heads diverged (objective {curves.objective[-1]} after "
            f"{config.epochs} epochs); lower train.learning_rate or set "
            "train.features=standardized"
        )
    return Trained(
        one_draw(params),
        {"spec": asdict(spec)},
        {name: np.asarray(curve) for name, curve in curves._asdict().items()},
    )


def predict_routed(trained: Trained, examples: Examples) -> Prediction:
    """Heads under the router of every draw, decided by the mixture probability (R1)."""
    rows = examples.rows
    route = jax.vmap(lambda router: log_weights(trained.spec, router, rows.router_input_NxD))
    return predict_heads(
        "R1",
        np.asarray(margins(trained.params["heads"], rows.delta_NxD)),
        np.asarray(route(trained.params["router"])),
    )


def _single_bt(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, 1, "static")


def _static_mixture(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, problem.train_config.num_heads, "static")


def _micro_stage1(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, problem.train_config.num_heads, problem.train_config.router)


SINGLE_BT = Method(
    "single_bt",
    "One Bradley-Terry reward for everybody.",
    stage="train",
    fit=_single_bt,
    predict=predict_routed,
)
STATIC_MIXTURE = Method(
    "static_mixture",
    "K reward heads under one fixed set of weights, the same for every prompt.",
    stage="train",
    fit=_static_mixture,
    predict=predict_routed,
    own_heads=True,
)
MICRO_STAGE1 = Method(
    "micro_stage1",
    "MiCRo before stage 2: K reward heads and a router that learned from plain pairs.",
    stage="train",
    fit=_micro_stage1,
    predict=predict_routed,
    own_heads=True,
    routes=True,
)
