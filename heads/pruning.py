"""Heads that decide alike, found on held-out rows and merged (paper, appendix C.1).

The paper names no statistic and no threshold. Here it is the uncentred correlation of margins:
pairs are written chosen first, so a centred one would lose the accuracy that the mean carries.
Opposite heads have correlation -1 and stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import cosine_similarity
from .methods.interface import HeadOutputs


@dataclass(frozen=True)
class Merging:
    """``kept``: heads that stay, ascending. ``owner_K``: for every head, its index in ``kept``."""

    kept: tuple[int, ...]
    owner_K: np.ndarray


def plan_merging(delta_NxK: np.ndarray, weight_K: np.ndarray, threshold: float) -> Merging:
    """Which heads stay and who takes over the weight of the others.

    Heads are visited by falling mean router weight. One stays if its correlation with every head
    that stays is below ``threshold``; otherwise its weight goes to the most correlated of them. A
    threshold above 1 keeps all.
    """
    correlation_KxK = cosine_similarity(delta_NxK, delta_NxK)
    order = np.argsort(-weight_K, kind="stable")
    kept: list[int] = []
    for head in order:
        if not kept or correlation_KxK[head, kept].max() < threshold:
            kept.append(int(head))
    kept.sort()
    owner_K = np.argmax(correlation_KxK[:, kept], axis=1)
    owner_K[kept] = np.arange(len(kept))
    return Merging(tuple(kept), owner_K)


def merge_weights(log_weights: np.ndarray, merging: Merging) -> np.ndarray:
    """Log weights (..., K) to those of the kept heads: each has the sum of its group's weights."""
    groups = [
        np.logaddexp.reduce(log_weights[..., merging.owner_K == index], axis=-1)
        for index in range(len(merging.kept))
    ]
    return np.stack(groups, axis=-1)


def merge_heads(heads: HeadOutputs, merging: Merging) -> HeadOutputs:
    """Margins and weights of the kept heads; nothing changes where the merged ones were equal."""
    return HeadOutputs(
        heads.delta_NxK[:, list(merging.kept)], merge_weights(heads.log_weights_SxNxK, merging)
    )
