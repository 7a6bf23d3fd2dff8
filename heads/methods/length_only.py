"""A Bradley-Terry reward of the length alone: what a method must beat to have read anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .interface import Examples, Method, Prediction, Problem, Trained, predict_reward

NEWTON_STEPS = 50


def fit_slope(x_N: np.ndarray) -> float:
    """The slope w that minimises the mean of ``softplus(-w x)``, by damped Newton steps.

    Where one sign explains every row no finite minimiser exists; the steps then end at a slope
    whose loss is next to nothing. Rows of length difference 0 pull in no direction.
    """
    slope = 0.0
    for _ in range(NEWTON_STEPS):
        p_N = 1 / (1 + np.exp(np.clip(slope * x_N, -50, 50)))
        gradient, curvature = np.mean(p_N * x_N), np.mean(p_N * (1 - p_N) * x_N**2)
        if curvature < 1e-12:
            break
        slope += float(np.clip(gradient / curvature, -1.0, 1.0))
    return slope


def _length_only(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    longer_N = problem.train.longer_N.astype(np.float64)
    scale = max(float(np.sqrt(np.mean(longer_N**2))), 1e-12)
    return Trained({"slope": np.array([fit_slope(longer_N / scale) / scale])})


def _predict(trained: Trained, examples: Examples) -> Prediction:
    return predict_reward((examples.longer_N * trained.params["slope"][0])[None])


LENGTH_ONLY = Method(
    "length_only",
    "A reward of the response's number of tokens alone, its slope fitted to the training pairs.",
    stage="train",
    fit=_length_only,
    predict=_predict,
    rule="R2",
    seeded=False,
)
