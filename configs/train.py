"""Stage 1, and every method that learns from unlabelled pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class TrainConfig:
    """Stage 1 and every method trained on unlabelled pairs; the paper's values by default.

    Attributes:
        num_heads: K, reward heads of every mixture.
        entropy_weight: alpha, weight of the negative-entropy regulariser (paper eq. 4).
        learning_rate: Peak of the warm-up and cosine schedule.
        batch_size: Pairs per step.
        epochs: Passes over the training rows.
        select: Keep the parameters of the epoch with the best validation NLL, or the last ones.
        patience: Stop after so many epochs without a better validation NLL; by default never.
        shuffle_seed: Seed of the order of the rows. It is not run.seed, so that runs that differ
            in their seed only read the same batches, and a sweep reads the features once.
        precision: Of the products of features with parameters: float32; bfloat16_split, 16-bit
            features with parameters and gradients as sums of two 16-bit parts; or bfloat16. The
            last two are for hardware with fast 16-bit products.
        validation_fraction: Share of training prompts kept for validation.
        warmup: Share of the steps with rising learning rate.
        clip: Largest gradient norm.
        weight_decay: Decoupled weight decay.
        router: Two-layer perceptron, or the linear router of the official code.
        router_units: Hidden units of the perceptron.
        features: raw, or standardized per dimension with statistics of the training rows.
        compile: How programs are compiled: full optimisation, or quick, for data so small that to
            compile takes longer than to train; results differ by rounding.
        memory_gb: GiB that the features may take in memory; more are streamed from the store, by
            the methods that can, with the same result. By default there is no limit.
        data_devices: Devices that share every batch, for very large ones; groups of so many share
            the members of a sweep.
    """

    num_heads: int = 10
    entropy_weight: float = 0.5
    learning_rate: float = 2e-3
    batch_size: int = 128
    epochs: int = 3
    select: Literal["best", "last"] = "best"
    patience: int | None = None
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
    memory_gb: float | None = None
    data_devices: int = 1

    def __post_init__(self) -> None:
        limit = self.memory_gb
        require(limit is None or limit > 0, "train.memory_gb", "above 0", limit)
        for key in (
            "num_heads",
            "batch_size",
            "epochs",
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
        """``memory_gb`` in bytes."""
        return None if self.memory_gb is None else self.memory_gb * 2**30
