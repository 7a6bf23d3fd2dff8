"""The three stage-1 rows of the tables; they differ in their model and in nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from ... import UserError
from ..model import ModelSpec, RouterKind, init
from ..training import fit
from .interface import Method, Problem, Trained, one_draw


class DivergenceError(UserError):
    """Training ended in NaN or infinity; the message says what to change."""


def fit_mixture(problem: Problem, num_heads: int, router: RouterKind) -> Trained:
    """Train ``num_heads`` heads under a router of the given kind on the plain pairs."""
    config = problem.train_config
    spec = ModelSpec(problem.width, num_heads, router, config.router_units)
    params = init(spec, jax.random.fold_in(problem.key, 0))
    params, curves = fit(
        spec, params, problem.train, problem.validation, config, jax.random.fold_in(problem.key, 1)
    )
    if not np.isfinite(curves.objective[-1]):
        raise DivergenceError(
            f"training {num_heads} heads diverged (objective {curves.objective[-1]} after "
            f"{config.epochs} epochs); lower train.learning_rate or set "
            "train.features=standardized"
        )
    return Trained(
        spec,
        one_draw(params),
        {name: np.asarray(curve) for name, curve in curves._asdict().items()},
    )


def _single_bt(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, 1, "static")


def _static_mixture(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, problem.train_config.num_heads, "static")


def _micro_stage1(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    return fit_mixture(problem, problem.train_config.num_heads, problem.train_config.router)


SINGLE_BT = Method(
    "single_bt", "One Bradley-Terry reward for everybody.", stage="train", fit=_single_bt
)
STATIC_MIXTURE = Method(
    "static_mixture",
    "K reward heads under one fixed set of weights, the same for every prompt.",
    stage="train",
    fit=_static_mixture,
)
MICRO_STAGE1 = Method(
    "micro_stage1",
    "MiCRo before stage 2: K reward heads and a router that learned from plain pairs.",
    stage="train",
    fit=_micro_stage1,
)
