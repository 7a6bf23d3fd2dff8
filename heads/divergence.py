"""Training that leaves the finite numbers, or the reasonable ones: at which step, and how far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import UserError

if TYPE_CHECKING:
    from .methods.interface import Trained

NO_STEP = -1.0
# An objective that ends above its value at the start by this much of it (and of log 2) is no
# training, though all numbers are finite.
EXPLODED = 0.5


class DivergenceError(UserError):
    """Training ended in NaN or infinity; the message says where, and what to change."""


@contextmanager
def named(method: str) -> Iterator[None]:
    """Errors about training that happen inside name their method."""
    try:
        yield
    except DivergenceError as error:
        raise DivergenceError(f"{method}: {error}") from error


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


def explosions(models: Mapping[str, Trained]) -> list[str]:
    """Sentences about methods whose objective ends far above the loss of their first step."""
    found = []
    for name, model in models.items():
        # Stage 2 takes over the settings of stage 1, not its curves.
        if "first_loss" not in model.settings or "objective" not in model.curves:
            continue
        start, end = float(model.settings["first_loss"]), float(model.curves["objective"][-1])
        if not end - start <= EXPLODED * max(abs(start), math.log(2)):
            found.append(
                f"{name}: the training objective rose from {start:.3g} at the first step to "
                f"{end:.3g} in the last epoch; lower the learning rate."
            )
    return found
