"""What a method is: a name, a sentence, a rule, and one function that fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from ...configs.schema import AdaptConfig, TrainConfig
from ..model import ModelSpec, log_weights, margins
from ..training import Rows


@dataclass(frozen=True)
class Problem:
    """Everything a method may learn from: no test row is in it.

    ``budget`` holds the S draws of context-labelled rows of stage 2, stacked as (S, n, D); None
    before that stage or when the data have no contexts.
    """

    width: int
    train: Rows
    validation: Rows
    train_config: TrainConfig
    adapt_config: AdaptConfig
    key: Array
    budget: Rows | None = None


class Prediction(NamedTuple):
    """Head margins (N, K) and log weights per draw (S, N, K); S = 1 without stage-2 draws."""

    delta_NxK: np.ndarray
    log_weights_SxNxK: np.ndarray


@dataclass(frozen=True)
class Trained:
    """A fitted method. Leaves of ``params["router"]`` carry a leading axis of S draws."""

    spec: ModelSpec
    params: Mapping[str, Any]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)

    def predict(self, rows: Rows) -> Prediction:
        """Margins and weights of any rows in the stage-2 views."""
        route = jax.vmap(lambda router: log_weights(self.spec, router, rows.router_input_NxD))
        return Prediction(
            np.asarray(margins(self.params["heads"], rows.delta_NxD)),
            np.asarray(route(self.params["router"])),
        )


Fit = Callable[[Problem, Mapping[str, Trained]], Trained]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    ``stage`` says whether it learns from plain pairs (train) or from labelled ones (adapt),
    ``rule`` how it decides (R1 mixture probability, R2 weighted reward), ``needs`` which methods
    come first.
    """

    name: str
    summary: str
    stage: Literal["train", "adapt"]
    fit: Fit
    rule: Literal["R1", "R2"] = "R1"
    needs: tuple[str, ...] = ()


def one_draw(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a model without stage-2 draws in the stacked form of ``Trained``."""
    router = jax.tree.map(lambda leaf: leaf[None], params["router"])
    return {"heads": params["heads"], "router": router}
