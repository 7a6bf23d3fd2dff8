"""Freeing attribute scores of their rank correlation with length (pure).

ArmoRM subtracts from each attribute as much of the verbosity score as makes the two uncorrelated
in Spearman's sense (Wang et al. 2024, arXiv 2406.12845; the grid of penalties is that of its code).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Fine steps where most attributes find their penalty, then steps of 0.05.
PENALTIES = np.array(
    [0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, *(step / 20 for step in range(4, 20))]
)
NO_PENALTY_WORKS = 1.0


class Debias(NamedTuple):
    """The transform (A, A) of the heads' columns and the penalty of each attribute (A,)."""

    transform_AxA: np.ndarray
    penalty_A: np.ndarray


def average_ranks(value_N: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs.

    >>> average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, place_N, count_U = np.unique(value_N, return_inverse=True, return_counts=True)
    return (np.cumsum(count_U) - (count_U - 1) / 2)[place_N]


def spearman(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Spearman's rho, the correlation of the ranks; 0 where either side is constant."""
    ranks = [average_ranks(value_N) for value_N in (first_N, second_N)]
    deviation, other = (rank_N - rank_N.mean() for rank_N in ranks)
    length = np.sqrt((deviation @ deviation) * (other @ other))
    return float(deviation @ other / length) if length > 0 else 0.0


def verbosity_penalty(
    score_N: np.ndarray, verbosity_N: np.ndarray, max_correlation: float
) -> float:
    """The smallest penalty v of the grid with ``rho(score - v verbosity, verbosity)`` low enough.

    1 if none is.
    """
    for penalty in PENALTIES:
        if spearman(score_N - penalty * verbosity_N, verbosity_N) <= max_correlation:
            return float(penalty)
    return NO_PENALTY_WORKS


def fit_debias(score_NxA: np.ndarray, verbosity: int | None, max_correlation: float) -> Debias:
    """Penalties from the scores of reference responses; ``scores @ transform`` are debiased.

    Column ``verbosity`` is what the others are freed of. Its own penalty is 1: freed of itself,
    nothing is left. None, or no other column, leaves the scores as they are.
    """
    attributes = score_NxA.shape[1]
    transform_AxA, penalty_A = np.eye(attributes), np.zeros(attributes)
    if verbosity is None or attributes == 1:
        return Debias(transform_AxA, penalty_A)
    for column in range(attributes):
        penalty_A[column] = (
            NO_PENALTY_WORKS
            if column == verbosity
            else verbosity_penalty(score_NxA[:, column], score_NxA[:, verbosity], max_correlation)
        )
    transform_AxA[verbosity] -= penalty_A
    return Debias(transform_AxA, penalty_A)
