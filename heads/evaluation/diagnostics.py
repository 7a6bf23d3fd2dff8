"""What is wrong with a mixture although it runs: collapsed heads, unused heads, deaf routers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..matching import cosine_similarity
from ..methods.interface import HeadOutputs, Trained

# Two heads with this uncentred correlation of margins decide alike.
ALIKE = 0.99
# A head with less than this share of its fair weight (1/K) is not used.
UNUSED = 0.1
# Nats that the weights tell about the row. Less than this is a router that ignores its input.
DEAF = 0.01
# An objective that ends above its value at the first step by this share of it (or of log 2) did not
# train, although every number is finite.
EXPLODED = 0.5


def routing_information(log_weights_SxNxK: np.ndarray) -> float:
    """Nats that the head tells about the row: entropy of the mean weights minus their mean entropy.

    Mean over draws. 0 if every row gets the same weights, log K if every row has one head and
    every head its share of the rows.
    """
    weights = np.exp(log_weights_SxNxK.astype(np.float64))

    def entropy(p: np.ndarray) -> np.ndarray:
        return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)

    return float(np.mean(entropy(weights.mean(axis=1)) - entropy(weights).mean(axis=1)))


def diagnose(heads: HeadOutputs) -> dict[str, Any]:
    """Numbers behind the flags: head correlation (K, K) and routing information in nats.

    The correlation is uncentred: pairs are written chosen first, so the mean of a margin is its
    accuracy and not an offset. -1 marks opposite tastes, 0 a head without any margin.
    """
    correlation_KxK = cosine_similarity(heads.delta_NxK, heads.delta_NxK)
    return {
        "correlation": np.round(correlation_KxK, 4).tolist(),
        "routing_nats": routing_information(heads.log_weights_SxNxK),
    }


def flags(
    heads: Mapping[str, Mapping[str, Any]], owners: Collection[str], routers: Collection[str]
) -> list[str]:
    """Sentences about heads that ``owners`` have trained and weights that ``routers`` choose."""
    found = []
    for name, entry in heads.items():
        count = len(entry["usage"])
        if count == 1:
            continue
        if name in owners:
            found += _head_flags(name, np.array(entry["correlation"]), count)
        if name in routers:
            unused = [k for k, share in enumerate(entry["usage"]) if share < UNUSED / count]
            if unused:
                found.append(f"{name}: {_heads(unused)} next to no weight on any test row.")
            if entry["routing_nats"] < DEAF:
                found.append(
                    f"{name}: the router ignores its input; every test row gets nearly the same "
                    f"weights ({entry['routing_nats']:.4f} nats of {np.log(count):.2f})."
                )
    return found


def _head_flags(name: str, correlation_KxK: np.ndarray, count: int) -> list[str]:
    dead = np.flatnonzero(np.diag(correlation_KxK) == 0).tolist()
    copies = [k for k in range(1, count) if (correlation_KxK[k, :k] >= ALIKE).any()]
    found = []
    if dead:
        found.append(f"{name}: {_heads(dead)} no opinion on any test row.")
    if copies:
        verb = "repeats" if len(copies) == 1 else "repeat"
        found.append(
            f"{name}: {len(copies)} of {count} heads collapsed: "
            f"{_heads(copies, verb)} an earlier one (correlation {ALIKE} or more)."
        )
    return found


def _heads(numbers: list[int], verb: str = "") -> str:
    shown = ", ".join(map(str, numbers))
    if len(numbers) == 1:
        return f"head {shown} {verb or 'has'}"
    return f"heads {shown} {verb or 'have'}"


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
