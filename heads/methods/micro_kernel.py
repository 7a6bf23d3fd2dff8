"""MiCRo's stage-1 heads under kernel Hedge: the router that goes beyond the paper.

Three things differ from ``micro``. Losses are pooled over the rows of a group before they become
weights, which is what Hedge is about, where the paper takes one row at a time. The router is a
kernel ridge regression from contexts to losses instead of a network trained in steps. And the
heads are scaled to margins of unit size, so that large margins alone do not win.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ...common.errors import UserError
from ..features import Scaler
from ..kernel_router import KernelRouter, fit_kernel_router, kernel_log_weights, response_directions
from ..moments import accumulate, row_blocks
from .interface import Budget, Examples, Method, Prediction, Problem, Trained, predict_heads


def _program(problem: Problem, _done: Mapping[str, Trained]) -> tuple[Hashable, ...]:
    """Problems that share the training rows and their scaling share the responses' directions."""
    return id(problem.train), id(problem.scaler)


def _micro_kernel_many(
    problems: Sequence[Problem], done: Sequence[Mapping[str, Trained]], _capacity: int
) -> list[Trained | UserError]:
    scaler = problems[0].scaler or Scaler.identity(problems[0].width)
    projection_DxR = _response_directions(problems[0], scaler)
    return [
        _micro_kernel(problem, models, scaler, projection_DxR)
        for problem, models in zip(problems, done, strict=True)
    ]


def _micro_kernel(
    problem: Problem, done: Mapping[str, Trained], scaler: Scaler, projection_DxR: np.ndarray
) -> Trained:
    config, budget = problem.adapt_config.kernel, problem.budget
    assert budget is not None  # the stage leaves the method out without one
    kernel_DxK = np.asarray(done["micro_stage1"].params["heads"]["kernel"], np.float64)
    margin_NxK = np.asarray(problem.train.rows.delta_NxD, np.float64) @ kernel_DxK
    kernel_DxK = kernel_DxK / np.maximum(np.sqrt(np.mean(margin_NxK**2, axis=0)), 1e-12)
    routers = [
        _fit_draw(budget, draw, kernel_DxK, projection_DxR, scaler, config.targets, config.ridge)
        for draw in range(budget.draws)
    ]
    return Trained(
        {
            "heads": {"kernel": kernel_DxK.astype(np.float32)},
            "router": {
                "input_scale": scaler.router_scale_D,
                "input_mean": scaler.router_mean_D,
                "projection": projection_DxR.astype(np.float32),
                "centre": np.stack([router.centre_D for router in routers]).astype(np.float32),
                "kernel": np.stack([router.kernel_PxK for router in routers]).astype(np.float32),
                "intercept": np.stack([router.intercept_K for router in routers]).astype(
                    np.float32
                ),
            },
        },
        {"tau": config.tau, "ridge": config.ridge, "targets": config.targets},
    )


def _fit(problem: Problem, done: Mapping[str, Trained]) -> Trained:
    (result,) = _micro_kernel_many([problem], [done], 0)
    assert isinstance(result, Trained)
    return result


def _fit_draw(
    budget: Budget,
    draw: int,
    kernel_DxK: np.ndarray,
    projection_DxR: np.ndarray,
    scaler: Scaler,
    targets: str,
    ridge: float,
) -> KernelRouter:
    real_B = budget.mask_SxB[draw] > 0
    margin_nxK = np.asarray(budget.rows.delta_NxD[draw], np.float64)[real_B] @ kernel_DxK
    context_nxD = scaler.raw_router_input(np.asarray(budget.rows.router_input_NxD[draw])[real_B])
    pool_B = budget.group_B if targets == "group" else budget.wording_SxB[draw]
    losses_nxK = pooled_mean(np.logaddexp(0.0, -margin_nxK), pool_B[real_B])
    return fit_kernel_router(context_nxD, losses_nxK, projection_DxR, ridge)


def pooled_mean(values_nxK: np.ndarray, pool_n: np.ndarray) -> np.ndarray:
    """(n, K) every row replaced by the mean over the rows of its pool."""
    if pool_n.size == 0:
        return values_nxK
    _, place_n, count = np.unique(pool_n, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place_n, column) for column in values_nxK.T], axis=-1)
    return (sums / count[:, None])[place_n]


def _response_directions(problem: Problem, scaler: Scaler) -> np.ndarray:
    """Directions in which the training responses differ, in unscaled coordinates."""
    sides = problem.train.load_sides()
    blocks = (
        block * scaler.delta_scale_D
        for side in (sides.chosen_NxD, sides.rejected_NxD)
        for block in row_blocks(np.asarray(side))
    )
    return response_directions(accumulate(blocks, problem.width).second_moment(centred=True))


def _predict(trained: Trained, examples: Examples) -> Prediction:
    router = trained.params["router"]
    context_NxD = np.asarray(examples.rows.router_input_NxD, np.float64)
    context_NxD = context_NxD * router["input_scale"] + router["input_mean"]
    log_weights_SxNxK = np.stack(
        [
            kernel_log_weights(
                KernelRouter(centre_D, router["projection"], kernel_PxK, intercept_K),
                context_NxD,
                trained.settings["tau"],
            )
            for centre_D, kernel_PxK, intercept_K in zip(
                router["centre"], router["kernel"], router["intercept"], strict=True
            )
        ]
    )
    delta_NxK = np.asarray(examples.rows.delta_NxD) @ np.asarray(trained.params["heads"]["kernel"])
    return predict_heads("R1", delta_NxK, log_weights_SxNxK)


MICRO_KERNEL = Method(
    "micro_kernel",
    "Beyond the paper: stage-1 heads under kernel Hedge, which predicts the heads' pooled losses "
    "from the context in closed form.",
    stage="adapt",
    fit=_fit,
    fit_many=_micro_kernel_many,
    program=_program,
    predict=_predict,
    after=("micro_stage1",),
    needs=("groups", "contexts"),
    given="context",
    routes=True,
    seeded=False,
    default_for=("context",),
    rank=1,
)
