"""Heads matched by permutation: to planted directions, and between runs with other seeds.

The order of heads means nothing, so two sets are compared under the assignment that makes them most
alike. Signs mean something: a reward and its negative are opposed tastes, not the same head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..common.errors import UserError


class MatchingError(UserError):
    """Sets of heads that cannot be compared; the message says what was expected and found."""


def cosine_similarity(left_DxJ: np.ndarray, right_DxK: np.ndarray) -> np.ndarray:
    """(J, K) cosines between columns, in [-1, 1]; of margins, their uncentred correlation.

    A column of zeros is like nothing: 0. Raises ``MatchingError`` unless both have the same number
    of rows and only finite values.
    """

    def unit(columns: np.ndarray) -> np.ndarray:
        columns = np.asarray(columns, np.float64)
        largest = np.abs(columns).max(axis=0, initial=0.0)
        columns = columns / np.where(largest > 0, largest, 1.0)  # or tiny columns would underflow
        length = np.linalg.norm(columns, axis=0)
        return columns / np.where(length > 0, length, 1.0)

    if left_DxJ.ndim != 2 or right_DxK.ndim != 2 or len(left_DxJ) != len(right_DxK):
        raise MatchingError(
            "heads: expected two matrices with equally many rows, "
            f"found shapes {left_DxJ.shape} and {right_DxK.shape}"
        )
    if not (np.isfinite(left_DxJ).all() and np.isfinite(right_DxK).all()):
        raise MatchingError("heads: expected finite values, found nan or inf")
    return np.clip(unit(left_DxJ).T @ unit(right_DxK), -1.0, 1.0)


def match_heads(similarity_JxK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one assignment with the largest sum of similarities.

    Both have min(J, K) entries and the rows ascend. Source: the linear assignment problem.
    """
    rows, columns = linear_sum_assignment(similarity_JxK, maximize=True)
    return rows, columns


def recovery(kernel_DxJ: np.ndarray, directions_DxK: np.ndarray) -> np.ndarray:
    """(K,) cosine of every planted direction with its head under the best assignment.

    Signed, because a head that prefers the opposite has not found the direction. With fewer heads
    than directions the ones left over get 0.
    """
    cosine_JxK = cosine_similarity(kernel_DxJ, directions_DxK)
    heads, directions = match_heads(cosine_JxK)
    found_K = np.zeros(cosine_JxK.shape[1])
    found_K[directions] = cosine_JxK[heads, directions]
    return found_K


@dataclass(frozen=True)
class Agreement:
    """How alike the heads of several runs are.

    ``pairs_Mx2`` numbers the two runs of every comparison, ``value_MxK`` is the similarity of every
    head of the first with its partner in the second, in [-1, 1], and ``mean`` that of all.
    """

    pairs_Mx2: np.ndarray
    value_MxK: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over comparisons and heads."""
        return float(self.value_MxK.mean())


def agreement(heads: Sequence[np.ndarray]) -> Agreement:
    """Matched cosines between the heads of every two runs.

    ``heads`` are kernels (D, K), or margins (N, K) of the same rows, which also compare runs whose
    features differ. Margins are not centred: a margin of zero means indifference. Raises
    ``MatchingError`` for fewer than two runs or unequal shapes.
    """
    shapes = sorted({run.shape for run in heads})
    if len(heads) < 2 or len(shapes) != 1:
        raise MatchingError(
            "heads: expected two or more runs with arrays of one shape, "
            f"found {len(heads)} runs with shapes {shapes}"
        )
    pairs = list(combinations(range(len(heads)), 2))
    values = []
    for one, other in pairs:
        cosine_KxK = cosine_similarity(heads[one], heads[other])
        values.append(cosine_KxK[match_heads(cosine_KxK)])
    return Agreement(np.array(pairs), np.array(values))
