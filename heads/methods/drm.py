"""Decomposed reward models: principal components of the differences as heads that nobody trained.

Luo et al. 2025, arXiv 2502.13131; adaptation as in the official code. Every component serves in
both directions, v and -v. A group weighs the 2K heads by their losses on its few labelled pairs:
``w = softmax(-L / T)``, where L sums ``softplus(-z)`` over the pairs and z is the difference of
scores in standard deviations of that head over both sides of these pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ...configs.baselines import DrmConfig
from ..evaluation.metrics import log_sigmoid
from ..moments import accumulate, row_blocks
from .interface import Budget, Examples, Method, Prediction, Problem, Trained, predict_reward

# Spread below this share of the largest score is rounding, and so are eigenvalues.
ROUNDING = 1e-9


class Adapted(NamedTuple):
    """What a group makes of K components: weights of v and -v (..., 2K), deviations (..., K)."""

    weight_x2K: np.ndarray
    deviation_xK: np.ndarray


def principal_components(moment_DxD: np.ndarray, count: int) -> np.ndarray:
    """(D, K) orthonormal directions of largest variance, the largest first, in float64.

    K is ``count`` or the number of directions with any variance, whichever is smaller, but at
    least 1. The entry of largest magnitude is positive: eigenvectors have no sign of their own.
    Directions of equal variance come in no particular order.
    """
    variance_D, direction_DxD = np.linalg.eigh(moment_DxD)
    kept = max(int(np.sum(variance_D > ROUNDING * variance_D[-1])), 1)
    direction_DxK = direction_DxD[:, ::-1][:, : min(count, kept)]
    largest_K = np.abs(direction_DxK).argmax(axis=0)
    return direction_DxK * np.where(direction_DxK[largest_K, np.arange(largest_K.size)] < 0, -1, 1)


def score_deviation(score_xnxK: np.ndarray, mask_xn: np.ndarray) -> np.ndarray:
    """(..., K) standard deviation (n - 1) of the scores in real slots; 1 where they do not vary.

    >>> scores = np.array([[1.0], [2.0], [4.0], [0.0], [99.0]])
    >>> round(float(score_deviation(scores, np.array([1.0, 1, 1, 1, 0]))[0]), 7)
    1.7078251
    """
    real_xnx1 = mask_xn[..., None]
    count_xx1 = real_xnx1.sum(axis=-2)
    mean_xx1xK = (score_xnxK * real_xnx1).sum(axis=-2, keepdims=True)
    mean_xx1xK /= np.maximum(count_xx1, 1)[..., None, :]
    squares_xK = ((score_xnxK - mean_xx1xK) ** 2 * real_xnx1).sum(axis=-2)
    deviation_xK = np.sqrt(squares_xK / np.maximum(count_xx1 - 1, 1))
    largest_xK = np.abs(score_xnxK * real_xnx1).max(axis=-2, initial=0.0)
    return np.where(deviation_xK > ROUNDING * largest_xK, deviation_xK, 1.0)


def adapt_weights(
    chosen_xnxK: np.ndarray, rejected_xnxK: np.ndarray, mask_xn: np.ndarray, temperature: float
) -> Adapted:
    """Weights of the heads v and -v from the scores of n labelled pairs, 0.0 in the mask for none.

    The share of v among the two is ``sigmoid(sum z / T)``. Without pairs all heads weigh the same,
    so that v and -v cancel.
    """
    sides_xmxK = np.concatenate([chosen_xnxK, rejected_xnxK], axis=-2)
    deviation_xK = score_deviation(sides_xmxK, np.concatenate([mask_xn, mask_xn], axis=-1))
    z_xnxK = (chosen_xnxK - rejected_xnxK) / deviation_xK[..., None, :]
    log_prob_xnx2K = log_sigmoid(np.concatenate([z_xnxK, -z_xnxK], axis=-1))
    logit_x2K = (log_prob_xnx2K * mask_xn[..., None]).sum(axis=-2) / temperature
    odds_x2K = np.exp(logit_x2K - logit_x2K.max(axis=-1, keepdims=True))
    return Adapted(odds_x2K / odds_x2K.sum(axis=-1, keepdims=True), deviation_xK)


def adapt_groups(
    budget: Budget, component_DxK: np.ndarray, groups: int, config: DrmConfig
) -> Adapted:
    """Weights (S, G + 1, 2K) and deviations (S, G + 1, K) of every draw and group.

    The last slot pools the pairs of all groups of the draw, as if they were one group's: the
    answer for rows of no group, and for groups without a labelled row.
    """
    draws, components = budget.draws, component_DxK.shape[1]
    shape = draws, groups, budget.mask_SxB.shape[1] // max(groups, 1)

    def used(values_SxBx: np.ndarray, *width: int) -> np.ndarray:
        return values_SxBx.reshape(*shape, *width)[:, :, : config.rows]

    def weigh(*shape: int) -> Adapted:
        first, second = (side.reshape(draws, *shape, components) for side in (chosen, rejected))
        return adapt_weights(first, second, mask.reshape(draws, *shape), config.temperature)

    mask = used(budget.mask_SxB.astype(np.float64))
    chosen, rejected = (used(side @ component_DxK, components) for side in budget.load_sides())
    own, everybody = weigh(*mask.shape[1:]), weigh(1, mask[0].size)
    labelled_SxGx1 = mask.any(axis=-1, keepdims=True)
    return Adapted(
        *(
            np.concatenate([np.where(labelled_SxGx1, values, common), common], axis=1)
            for values, common in zip(own, everybody, strict=True)
        )
    )


def _drm(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    config, budget = problem.baselines.drm, problem.budget
    assert budget is not None  # the stage leaves the method out without one
    delta_NxD = np.asarray(problem.train.rows.delta_NxD)
    moments = accumulate(row_blocks(delta_NxD), problem.width)
    moment_DxD = moments.second_moment(centred=config.centred)
    component_DxK = principal_components(moment_DxD, config.components)
    adapted = adapt_groups(budget, component_DxK, len(problem.groups), config)
    kept, total = np.sum(component_DxK * (moment_DxD @ component_DxK)), np.trace(moment_DxD)
    return Trained(
        {
            "component": component_DxK.astype(np.float32),
            "weight": adapted.weight_x2K.astype(np.float32),
            "deviation": adapted.deviation_xK.astype(np.float32),
        },
        {
            "components": component_DxK.shape[1],
            "centred": config.centred,
            "rows": config.rows,
            "temperature": config.temperature,
            "explained_variance": float(kept / total) if total > 0 else 0.0,
        },
    )


def _predict(trained: Trained, examples: Examples) -> Prediction:
    weight_SxGx2K = np.asarray(trained.params["weight"], np.float64)
    plus_SxGxK, minus_SxGxK = np.split(weight_SxGx2K, 2, axis=-1)
    direction_SxGxK = (plus_SxGxK - minus_SxGxK) / trained.params["deviation"]
    delta_NxK = np.asarray(examples.rows.delta_NxD) @ np.asarray(trained.params["component"])
    # NO_LABEL is -1 and so picks the last slot, which belongs to no group.
    return predict_reward(
        np.stack([np.sum(draw[examples.group_N] * delta_NxK, axis=-1) for draw in direction_SxGxK])
    )


DRM = Method(
    "drm",
    "Principal components of the differences as heads, weighed by a few labelled rows per group.",
    stage="adapt",
    fit=_drm,
    predict=_predict,
    rule="R2",
    needs=("groups",),
    given="group",
    seeded=False,
)
