"""Settings of adaptation: the budget of labelled rows, and stage 2, which learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class KernelConfig:
    """Kernel Hedge, the closed-form router of the method micro_kernel.

    Attributes:
        targets: Rows over which the losses of the heads are averaged: all rows of a group, or all
            with the same context.
        tau: Temperature of the head weights, in nats of the mean loss.
        ridge: Ridge penalty per labelled row of the regression from contexts to losses.
    """

    targets: Literal["group", "wording"] = "group"
    tau: float = 0.04
    ridge: float = 0.03

    def __post_init__(self) -> None:
        for key in ("tau", "ridge"):
            require(getattr(self, key) > 0, f"adapt.kernel.{key}", "above 0", getattr(self, key))


@dataclass(frozen=True)
class AdaptConfig:
    """Adaptation to a few labelled pairs: the protocol of all methods, and stage 2 of MiCRo.

    Attributes:
        group: What a group is: the rows of one attribute or of one user. Each has its own budget.
        source: Split that labelled rows are drawn from. Test rows of a draw are not scored in it.
        budget: Labelled rows per group and draw.
        pool: Training rows per group that are embedded with their context and may be drawn.
        draws: Independent draws of the budget; reports give mean and spread over them.
        tau: Temperature of the Hedge targets (paper: 1e-3 HelpSteer2, 1e-4 RPR).
        epochs: Passes over the labelled rows; targets are recomputed at the start of each.
        batch_size: Rows per step.
        targets: Rows over which the losses behind the Hedge targets are averaged: each row by
            itself, as in the paper, all rows with the same context, or all rows of a group.
        learning_rate: Constant AdamW learning rate.
        weight_decay: Decoupled weight decay.
        kernel: Settings of micro_kernel, which solves for its router in closed form.
    """

    group: Literal["attribute", "user"] = "attribute"
    source: Literal["train", "test"] = "train"
    budget: int = 50
    pool: int = 200
    draws: int = 5
    tau: float = 1e-3
    epochs: int = 10
    batch_size: int = 32
    targets: Literal["example", "wording", "group"] = "example"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    kernel: KernelConfig = field(default_factory=KernelConfig)

    def __post_init__(self) -> None:
        require(self.budget >= 0, "adapt.budget", "0 or more", self.budget)
        require(
            self.pool >= self.budget or self.source == "test",
            "adapt.pool",
            f"at least adapt.budget ({self.budget}) rows",
            self.pool,
        )
        for key in ("draws", "epochs", "batch_size"):
            require(getattr(self, key) >= 1, f"adapt.{key}", "1 or more", getattr(self, key))
        for key in ("tau", "learning_rate"):
            require(getattr(self, key) > 0, f"adapt.{key}", "above 0", getattr(self, key))
        require(self.weight_decay >= 0, "adapt.weight_decay", "0 or more", self.weight_decay)
