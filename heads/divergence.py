"""Training that leaves the finite numbers, or the reasonable ones: at which step, and how far."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..common.errors import UserError

NO_STEP = -1.0


class DivergenceError(UserError):
    """Training ended in NaN or infinity; the message says where, and what to change."""


def first_bad(losses_T: Array) -> Array:
    """The first step of an epoch whose loss is not finite, from 0; ``NO_STEP`` if all are."""
    bad_T = ~jnp.isfinite(losses_T)
    return jnp.where(bad_T.any(), jnp.argmax(bad_T).astype(jnp.float32), NO_STEP)


def divergence(
    what: str, bad_step_E: np.ndarray, remedy: str, *, unit: str = "epoch", member: str = ""
) -> DivergenceError | None:
    """The error of a run by its first bad steps per epoch (E,); None if no step was bad.

    ``member`` says which run of several it was.
    """
    bad = np.flatnonzero(np.asarray(bad_step_E) >= 0)
    if not bad.size:
        return None
    step = int(bad_step_E[bad[0]]) + 1
    return DivergenceError(
        f"{what} diverged in {unit} {bad[0] + 1} of {len(bad_step_E)}, step {step} of it{member}: "
        f"the loss is not finite; {remedy}"
    )
