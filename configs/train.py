"""Settings of stage 1, and of every method that trains on pairs without contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class TrainConfig:
    """Stage 1, and all training on pairs without contexts; defaults are the paper's values.

    Attributes:
        num_heads: K, the number of reward heads of every mixture.
        entropy_weight: alpha, the weight of the negative-entropy regulariser (paper eq. 4).
        learning_rate: Peak learning rate of the schedule, linear warm-up and cosine decay.
        batch_size: Pairs per step.
        epochs: Passes over the training rows.
        select: Parameters to keep: those of the epoch with the best validation NLL, or the last.
        patience: Epochs without a better validation NLL after which training stops; by default
            never.
        seeds: Training seeds of every method that has randomness. Reports give the mean over them,
            with intervals that account for other seeds too; what is scored, exported and served is
            the model of the first. Each member of a sweep has one.
        shuffle_seed: Seed of the order of the rows. It is separate from run.seed so that runs with
            different seeds read the same batches, and a sweep reads the features only once.
        precision: Precision of products of features and parameters: float32; bfloat16_split, with
            16-bit features and each float32 parameter and gradient as a sum of two 16-bit parts;
            or bfloat16. The last two are for hardware with fast 16-bit products.
        validation_fraction: Share of the training prompts held out for validation.
        warmup: Share of the steps that are warm-up.
        clip: Gradient norm above which gradients are clipped.
        weight_decay: Decoupled weight decay.
        router: mlp, with one hidden layer, or the linear router of the official code.
        router_units: Hidden units of the mlp router.
        features: raw, or standardized per dimension with the statistics of the training rows.
        compile: full compiler optimisation, or quick compilation, for data so small that compiling
            takes longer than training; results differ by rounding.
        memory_gib: Memory for features in GiB. Methods that can stream more from the store, with
            the same result. By default there is no limit.
        data_devices: Devices that share each batch, for very large batches. A sweep distributes its
            members over groups of this many devices.
    """

    num_heads: int = 10
    entropy_weight: float = 0.5
    learning_rate: float = 2e-3
    batch_size: int = 128
    epochs: int = 3
    select: Literal["best", "last"] = "best"
    patience: int | None = None
    seeds: int = 5
    shuffle_seed: int = 0
    precision: Literal["float32", "bfloat16_split", "bfloat16"] = "float32"
    validation_fraction: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    weight_decay: float = 0.0
    router: Literal["mlp", "linear"] = "mlp"
    router_units: int = 128
    features: Literal["raw", "standardized"] = "raw"
    compile: Literal["full", "quick"] = "full"
    memory_gib: float | None = None
    data_devices: int = 1

    def __post_init__(self) -> None:
        limit = self.memory_gib
        require(limit is None or limit > 0, "train.memory_gib", "above 0", limit)
        for key in (
            "num_heads",
            "batch_size",
            "epochs",
            "seeds",
            "router_units",
            "patience",
            "data_devices",
        ):
            value = getattr(self, key)
            require(value is None or value >= 1, f"train.{key}", "1 or more", value)
        require(self.shuffle_seed >= 0, "train.shuffle_seed", "0 or more", self.shuffle_seed)
        for key in ("learning_rate", "clip"):
            require(getattr(self, key) > 0, f"train.{key}", "above 0", getattr(self, key))
        for key in ("entropy_weight", "weight_decay"):
            require(getattr(self, key) >= 0, f"train.{key}", "0 or more", getattr(self, key))
        for key in ("warmup", "validation_fraction"):
            require(0 <= getattr(self, key) < 1, f"train.{key}", "in [0, 1)", getattr(self, key))

    @property
    def memory_bytes(self) -> float | None:
        """``memory_gib`` in bytes."""
        return None if self.memory_gib is None else self.memory_gib * 2**30
