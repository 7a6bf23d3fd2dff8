"""The backbone's own reward head, untouched: what doing nothing gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .interface import Examples, Method, Prediction, Problem, Trained, predict_reward


def _native_head(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    assert problem.native_head_D is not None  # the stage leaves the method out without one
    return Trained({"head": np.asarray(problem.native_head_D, np.float32)})


def _predict(trained: Trained, examples: Examples) -> Prediction:
    return predict_reward((np.asarray(examples.rows.delta_NxD) @ trained.params["head"])[None])


NATIVE_HEAD = Method(
    "native_head",
    "The reward head that the backbone came with, without any training.",
    stage="train",
    fit=_native_head,
    predict=_predict,
    needs=("native_head",),
    rule="R2",
    linear=True,
    default_for=("prompt",),
    rank=7,
    seeded=False,
)
