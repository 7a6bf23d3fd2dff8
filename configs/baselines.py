"""Settings of the baselines, the methods that MiCRo is compared with: one dataclass each.

Defaults are those of each method's own paper or code wherever frozen features allow them. The file
of a method names its sources and the reason for any difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class MaxMinConfig:
    """MaxMin-RLHF: hard EM that assigns every user to one head.

    Attributes:
        unit: Unit that is assigned to a head as a whole: a user, a chunk of rows of one attribute,
            or a single pair. auto takes users if the data name them, else chunks if the data name
            attributes, else pairs.
        chunk: Rows of an attribute chunk, which stands in for a user.
        rounds: EM rounds, each an assignment (E) and a fitting step (M).
        learning_rate: AdamW learning rate of the M step.
        epochs: Passes over the rows in every M step.
    """

    unit: Literal["auto", "user", "attribute_chunk", "pair"] = "auto"
    chunk: int = 20
    rounds: int = 10
    learning_rate: float = 2e-3
    epochs: int = 10

    def __post_init__(self) -> None:
        for key in ("chunk", "rounds", "epochs"):
            require(
                getattr(self, key) >= 1, f"baselines.maxmin.{key}", "1 or more", getattr(self, key)
            )
        require(
            self.learning_rate > 0, "baselines.maxmin.learning_rate", "above 0", self.learning_rate
        )


@dataclass(frozen=True)
class SharedBaseConfig:
    """Shared-base ensemble: K heads, each plus a frozen random prior.

    Attributes:
        prior_scale: beta, the weight of the frozen prior.
        anchor: L2 penalty on the trained part of the anchored variant; it keeps the heads diverse.
    """

    prior_scale: float = 1.0
    anchor: float = 1e-2

    def __post_init__(self) -> None:
        for key in ("prior_scale", "anchor"):
            require(
                getattr(self, key) >= 0,
                f"baselines.shared_base.{key}",
                "0 or more",
                getattr(self, key),
            )


@dataclass(frozen=True)
class HyreConfig:
    """HyRe: the heads of an ensemble, reweighted by their losses on a few labelled rows of a group.

    Attributes:
        rows: Labelled rows per group, the first of every draw; null takes the whole budget.
        loss: Loss of a head: summed or mean negative log-likelihood, or number of ranking errors.
        temperature: T of the weights exp(-loss / T).
        query: Order in which labels are queried: as drawn, or by active learning with the entropy,
            BALD or the variance of the heads' predictions.
    """

    rows: int | None = 16
    loss: Literal["nll_sum", "nll_mean", "errors"] = "nll_sum"
    temperature: float = 1.0
    query: Literal["drawn", "entropy", "bald", "variance"] = "drawn"

    def __post_init__(self) -> None:
        require(self.rows is None or self.rows >= 0, "baselines.hyre.rows", "0 or more", self.rows)
        require(self.temperature > 0, "baselines.hyre.temperature", "above 0", self.temperature)


@dataclass(frozen=True)
class ArmoConfig:
    """ArmoRM style: one ridge regression per rated attribute, and a gate that reads the prompt.

    Attributes:
        verbosity: Rated attribute that measures length; the rewards of the others are decorrelated
            from it. null, or an attribute that the data lack, skips this step.
        max_correlation: Largest Spearman correlation with verbosity that may remain.
        hidden: Units of each of the gate's three hidden layers.
        dropout: Dropout rate of the gate during training.
        temperature: Divisor of the gate's logits.
        learning_rate: Peak learning rate of the cosine schedule.
        steps: Optimiser steps.
        batch_size: Pairs per step, drawn with replacement.
    """

    verbosity: str | None = "verbosity"
    max_correlation: float = 0.03
    hidden: int = 1024
    dropout: float = 0.2
    temperature: float = 10.0
    learning_rate: float = 1e-3
    steps: int = 2000
    batch_size: int = 1024

    def __post_init__(self) -> None:
        for key in ("hidden", "steps", "batch_size"):
            require(
                getattr(self, key) >= 1, f"baselines.armo.{key}", "1 or more", getattr(self, key)
            )
        for key in ("temperature", "learning_rate"):
            require(getattr(self, key) > 0, f"baselines.armo.{key}", "above 0", getattr(self, key))
        require(0 <= self.dropout < 1, "baselines.armo.dropout", "in [0, 1)", self.dropout)
        require(
            0 <= self.max_correlation <= 1,
            "baselines.armo.max_correlation",
            "in [0, 1]",
            self.max_correlation,
        )


@dataclass(frozen=True)
class DrmConfig:
    """Decomposed reward models: principal components of feature differences serve as heads.

    Attributes:
        components: Number of leading components; each gives two heads, one per sign.
        centred: Subtract the mean difference first, as scikit-learn's PCA does. The mean is the
            direction of an average reward.
        rows: Labelled rows per group that the weights are fitted to; null takes the whole budget.
        temperature: Divisor of the summed losses in the softmax of the weights.
    """

    components: int = 50
    centred: bool = True
    rows: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.components >= 1, "baselines.drm.components", "1 or more", self.components)
        require(self.rows is None or self.rows >= 0, "baselines.drm.rows", "0 or more", self.rows)
        require(self.temperature > 0, "baselines.drm.temperature", "above 0", self.temperature)


@dataclass(frozen=True)
class DplConfig:
    """Distributional preference learning: a reward that is a distribution.

    Attributes:
        link: Probability that one normal reward exceeds another: the logistic with slope sqrt(2 pi)
            of the official code, or the exact normal distribution function.
        variance_penalty: lambda, the penalty on the summed variances of the mean-variance variant.
        atoms: Reward levels of the categorical variant.
        entropy_bonus: Weight of the entropy of the batch-mean distribution, categorical variant.
        init_scale: Scale of the initial parameters of the head, relative to the usual ones.
    """

    link: Literal["logistic", "normal"] = "logistic"
    variance_penalty: float = 0.0
    atoms: int = 10
    entropy_bonus: float = 0.1
    init_scale: float = 0.01

    def __post_init__(self) -> None:
        require(self.atoms >= 2, "baselines.dpl.atoms", "2 or more", self.atoms)
        for key in ("variance_penalty", "entropy_bonus"):
            require(
                getattr(self, key) >= 0, f"baselines.dpl.{key}", "0 or more", getattr(self, key)
            )
        require(self.init_scale > 0, "baselines.dpl.init_scale", "above 0", self.init_scale)


@dataclass(frozen=True)
class VplConfig:
    """Variational preference learning: an encoder turns labelled pairs of a group into a latent.

    Attributes:
        latent: Dimension of the latent vector.
        hidden: Units of each of the two hidden layers of encoder and decoder.
        context: Labelled pairs that the encoder reads at once; not the context of a prompt.
        kl_weight: beta, the weight of the KL term after annealing.
        learning_rate: Peak AdamW learning rate.
        weight_decay: Decoupled weight decay.
        epochs: Passes over the training rows, each with fresh context pairs.
        batch_size: Rows per step.
    """

    latent: int = 512
    hidden: int = 512
    context: int = 8
    kl_weight: float = 0.01
    learning_rate: float = 1e-4
    weight_decay: float = 1e-3
    epochs: int = 16
    batch_size: int = 32

    def __post_init__(self) -> None:
        for key in ("latent", "hidden", "context", "epochs", "batch_size"):
            require(
                getattr(self, key) >= 1, f"baselines.vpl.{key}", "1 or more", getattr(self, key)
            )
        for key in ("kl_weight", "weight_decay"):
            require(
                getattr(self, key) >= 0, f"baselines.vpl.{key}", "0 or more", getattr(self, key)
            )
        require(
            self.learning_rate > 0, "baselines.vpl.learning_rate", "above 0", self.learning_rate
        )


@dataclass(frozen=True)
class PalConfig:
    """PAL: a group is a mixture of prototypes, and a response is better the nearer it is to it.

    Attributes:
        variant: A takes the distance to a fixed ideal point, B the cosine similarity to an ideal
            point that depends on the prompt.
        prototypes: Number of prototypes.
        hidden: Units of the hidden layer of the projectors.
        latent: Dimension of the projected vectors.
        learning_rate: AdamW learning rate of the projectors.
        user_learning_rate: Learning rate of prototypes and group weights.
        weight_decay: Decoupled weight decay of the projectors.
        epochs: Passes over the training rows.
        batch_size: Rows per step.
    """

    variant: Literal["A", "B"] = "A"
    prototypes: int = 2
    hidden: int = 256
    latent: int = 256
    learning_rate: float = 1e-4
    user_learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    epochs: int = 10
    batch_size: int = 128

    def __post_init__(self) -> None:
        for key in ("prototypes", "hidden", "latent", "epochs", "batch_size"):
            count = getattr(self, key)
            require(count >= 1, f"baselines.pal.{key}", "1 or more", count)
        for key in ("learning_rate", "user_learning_rate"):
            require(getattr(self, key) > 0, f"baselines.pal.{key}", "above 0", getattr(self, key))
        decay = self.weight_decay
        require(decay >= 0, "baselines.pal.weight_decay", "0 or more", decay)


@dataclass(frozen=True)
class BaselinesConfig:
    """Settings of all baselines.

    Attributes:
        maxmin: MaxMin-RLHF, hard EM over users.
        shared_base: Ensemble of heads with frozen random priors.
        hyre: HyRe, an ensemble reweighted by a few labelled rows.
        armo: ArmoRM style, ridge regressions on ratings under a gate.
        drm: Decomposed reward models, principal components as heads.
        dpl: Distributional preference learning.
        vpl: Variational preference learning, a latent vector per group.
        pal: PAL, prototypes and ideal points.
    """

    maxmin: MaxMinConfig = field(default_factory=MaxMinConfig)
    shared_base: SharedBaseConfig = field(default_factory=SharedBaseConfig)
    hyre: HyreConfig = field(default_factory=HyreConfig)
    armo: ArmoConfig = field(default_factory=ArmoConfig)
    drm: DrmConfig = field(default_factory=DrmConfig)
    dpl: DplConfig = field(default_factory=DplConfig)
    vpl: VplConfig = field(default_factory=VplConfig)
    pal: PalConfig = field(default_factory=PalConfig)
