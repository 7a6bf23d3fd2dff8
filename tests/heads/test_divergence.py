"""Training that leaves the finite numbers is an error with its step; a rising one is a warning."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.divergence import divergence, first_bad
from micro_rm.heads.evaluation.diagnostics import divergence_warnings
from micro_rm.heads.methods.interface import Trained


@pytest.mark.parametrize(
    ("losses", "step"),
    [([1, 2], -1), ([1, np.nan, np.inf], 1), ([-np.inf, 1], 0)],
)
def test_the_first_step_that_is_not_finite(losses: list[float], step: int) -> None:
    assert float(first_bad(jnp.array(losses))) == step


def test_the_error_names_epoch_step_and_member() -> None:
    assert divergence("training", np.array([-1.0, -1.0]), "stop") is None
    error = divergence("training vpl", np.array([-1.0, 4.0, 0.0]), "stop", member=" (K = 3)")
    assert str(error) == (
        "training vpl diverged in epoch 2 of 3, step 5 of it (K = 3): the loss is not finite; stop"
    )


def trained(first: float, *objective: float) -> Trained:
    return Trained({}, {"first_loss": first}, {"objective": np.array(objective)})


def test_an_objective_that_ends_far_above_its_start_is_told() -> None:
    models = {
        "good": trained(0.7, 0.6, 0.3),
        "noisy": trained(0.7, 0.5, 0.9),
        "large": trained(10.0, 12.0),
        "wild": trained(0.7, 0.6, 30.0),
        "negative": trained(-2.0, 0.0, -0.9),
        "exact": Trained({}),
        "stage 2": Trained({}, {"first_loss": 0.7}, {"targets": np.array([9.0])}),
    }
    assert [text.partition(":")[0] for text in divergence_warnings(models)] == ["wild", "negative"]
    assert "from 0.7 at the first step to 30 in the last epoch" in divergence_warnings(models)[0]
