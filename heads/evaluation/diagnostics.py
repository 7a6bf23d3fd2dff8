"""Silent failures of a mixture: collapsed heads, unused heads, uninformative routers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..matching import cosine_similarity
from ..methods.interface import HeadOutputs, Trained

# Heads whose margins have at least this uncentred correlation have collapsed into one.
COLLAPSE_CORRELATION = 0.99
# A head is unused if its mean weight is below this share of uniform weight, 1/K.
UNUSED_SHARE = 0.1
# A router whose weights carry less information about the row than this ignores its input.
MIN_ROUTING_NATS = 0.01
# Training has diverged, although every number is finite, if the objective ends above its value at
# the first step by this share of that value (or of log 2, if that is larger).
DIVERGENCE_RISE = 0.5


def routing_information(log_weights_SxNxK: np.ndarray) -> float:
    """Mutual information between row and head under the router, nats, mean over draws.

    It is the entropy of the mean weights minus the mean entropy of the weights: 0 if every row
    has the same weights, log K if every row uses one head and all heads equally often.

    Args:
        log_weights_SxNxK: Log of the router weights, per draw.
    """
    weights = np.exp(log_weights_SxNxK.astype(np.float64))

    def entropy(p: np.ndarray) -> np.ndarray:
        # 0 log 0 = 0.
        return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)

    return float(np.mean(entropy(weights.mean(axis=1)) - entropy(weights).mean(axis=1)))


def diagnose(heads: HeadOutputs) -> dict[str, Any]:
    """Head correlation, (K, K), and routing information in nats: the numbers behind ``flags``.

    The correlation is uncentred, because margins are those of the chosen response: their mean
    reflects accuracy and is no offset to remove. It is -1 between heads of opposite preferences,
    and 0 everywhere, the diagonal included, for a head whose margins are all 0.
    """
    correlation_KxK = cosine_similarity(heads.delta_NxK, heads.delta_NxK)
    return {
        "correlation": np.round(correlation_KxK, 4).tolist(),
        "routing_nats": routing_information(heads.log_weights_SxNxK),
    }


def flags(
    heads: Mapping[str, Mapping[str, Any]], owners: Collection[str], routers: Collection[str]
) -> list[str]:
    """Warn of defects in heads and router weights, one sentence each.

    Args:
        heads: ``report["heads"]``.
        owners: Methods that trained their heads; only these are checked for collapsed heads.
        routers: Methods that trained a router; only these are checked for unused heads and for
            weights that ignore the input.
    """
    warnings = []
    for name, entry in heads.items():
        count = len(entry["usage"])
        if count == 1:
            continue
        if name in owners:
            warnings += _head_flags(name, np.array(entry["correlation"]), count)
        if name in routers:
            unused = [k for k, share in enumerate(entry["usage"]) if share < UNUSED_SHARE / count]
            if unused:
                warnings.append(f"{name}: {_heads(unused)} next to no weight on any test row.")
            if entry["routing_nats"] < MIN_ROUTING_NATS:
                warnings.append(
                    f"{name}: the router ignores its input; every test row gets nearly the same "
                    f"weights ({entry['routing_nats']:.4f} nats of {np.log(count):.2f})."
                )
    return warnings


def _head_flags(name: str, correlation_KxK: np.ndarray, count: int) -> list[str]:
    # A head without any margin has correlation 0 even with itself.
    dead = np.flatnonzero(np.diag(correlation_KxK) == 0).tolist()
    copies = [k for k in range(1, count) if (correlation_KxK[k, :k] >= COLLAPSE_CORRELATION).any()]
    warnings = []
    if dead:
        warnings.append(f"{name}: {_heads(dead)} no opinion on any test row.")
    if copies:
        verb = "repeats" if len(copies) == 1 else "repeat"
        warnings.append(
            f"{name}: {len(copies)} of {count} heads collapsed: "
            f"{_heads(copies, verb)} an earlier one (correlation {COLLAPSE_CORRELATION} or more)."
        )
    return warnings


def _heads(numbers: list[int], verb: str = "") -> str:
    shown = ", ".join(map(str, numbers))
    if len(numbers) == 1:
        return f"head {shown} {verb or 'has'}"
    return f"heads {shown} {verb or 'have'}"


def divergence_warnings(models: Mapping[str, Trained]) -> list[str]:
    """Warn of methods whose objective ends far above its value at the first step."""
    warnings = []
    for name, model in models.items():
        # Stage 2 inherits the settings of stage 1 but not its curves.
        if "first_loss" not in model.settings or "objective" not in model.curves:
            continue
        start, end = float(model.settings["first_loss"]), float(model.curves["objective"][-1])
        # Negated, so that a NaN counts as divergence.
        if not end - start <= DIVERGENCE_RISE * max(abs(start), math.log(2)):
            warnings.append(
                f"{name}: the training objective rose from {start:.3g} at the first step to "
                f"{end:.3g} in the last epoch; lower the learning rate."
            )
    return warnings
