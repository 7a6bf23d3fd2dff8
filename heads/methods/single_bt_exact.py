"""The single reward solved to its optimum: the reference that ``single_bt`` is measured against.

Bradley-Terry with one linear head is convex, so full-batch L-BFGS finds the loss that no other
training of the same head can beat on the training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..lbfgs import minimise
from ..losses import head_nll
from .interface import Examples, Method, Prediction, Problem, Trained, predict_reward

# Separable rows have no finite optimum. This L2 weight is far below what a test set can tell.
RIDGE = 1e-6
STEPS, TOLERANCE = 500, 1e-7


@partial(jax.jit, static_argnames=("steps",))
def solve_bt(delta_NxD: Array, ridge: float | Array, steps: int = STEPS) -> tuple[Array, Array]:
    """Minimise ``mean softplus(-delta w) + ridge |w|^2 / 2`` from zero.

    Returns the head (D,) and the largest entry of the gradient at it.
    """

    def loss(head_D: Array) -> Array:
        penalty = 0.5 * ridge * jnp.sum(head_D**2)
        return jnp.mean(head_nll(delta_NxD @ head_D)) + penalty

    return minimise(loss, jnp.zeros(delta_NxD.shape[1]), steps, TOLERANCE)


def _single_bt_exact(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    head_D, residual = solve_bt(problem.train.rows.delta_NxD, RIDGE)
    return Trained({"head": np.asarray(head_D)}, {"largest_gradient": float(residual)})


def _predict(trained: Trained, examples: Examples) -> Prediction:
    return predict_reward((np.asarray(examples.rows.delta_NxD) @ trained.params["head"])[None])


SINGLE_BT_EXACT = Method(
    "single_bt_exact",
    "One Bradley-Terry reward at its exact optimum on the training pairs (full-batch L-BFGS).",
    stage="train",
    fit=_single_bt_exact,
    predict=_predict,
    rule="R2",
    linear=True,
    default_for=("prompt",),
    rank=6,
    seeded=False,
)
