"""Ridge regression without an intercept, one per column of labels that may be missing (pure).

The attribute heads of ArmoRM (Wang et al. 2024, arXiv 2406.12845, multi-objective stage; the grid
of penalties and the held-out fifth are those of its code): the penalty of each attribute is the
one with the smallest squared error on held-out responses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .moments import accumulate, row_blocks

PENALTIES = tuple(10.0**power for power in range(-4, 5))
HELD_OUT_SHARE = 5


class RidgeFit(NamedTuple):
    """Heads (D, A), the penalty of each (A,), and the held-out squared error of each penalty."""

    head_DxA: np.ndarray
    penalty_A: np.ndarray
    error_PxA: np.ndarray


def held_out_rows(known_M: np.ndarray, held_out_M: np.ndarray, seed: int) -> np.ndarray:
    """(M,) which of the known rows to judge penalties by.

    Those that are held out. A random fifth of all instead, by row and not by prompt, if none of
    them or none of the others is known; at least one row.
    """
    judged_M = known_M & held_out_M
    if judged_M.any() and (known_M & ~held_out_M).any():
        return judged_M
    rows = np.flatnonzero(known_M)
    order = np.random.default_rng(seed).permutation(rows.size)
    judged_M = np.zeros_like(known_M)
    judged_M[rows[order[: max(rows.size // HELD_OUT_SHARE, 1)]]] = True
    return judged_M


def solve_ridge(
    features_MxD: np.ndarray, label_MxA: np.ndarray, penalties_P: np.ndarray
) -> np.ndarray:
    """(P, D, A) minimisers of ``|X w - y|^2 + penalty |w|^2`` in float64.

    One decomposition of the Gram matrix serves all penalties. Its eigenvalues are clipped at zero:
    with fewer rows than dimensions many are zero but for rounding.
    """
    width = features_MxD.shape[1]
    both = (
        np.hstack(pair)
        for pair in zip(row_blocks(features_MxD), row_blocks(label_MxA), strict=True)
    )
    sums = accumulate(both, width + label_MxA.shape[1]).sum_DxD
    eigenvalue_D, eigenvector_DxD = np.linalg.eigh(sums[:width, :width])
    rotated_DxA = eigenvector_DxD.T @ sums[:width, width:]
    shrunk_PxD = 1 / (np.maximum(eigenvalue_D, 0) + penalties_P[:, None])
    return eigenvector_DxD @ (shrunk_PxD[:, :, None] * rotated_DxA)


def fit_ridge(
    features_MxD: np.ndarray,
    label_MxA: np.ndarray,
    held_out_M: np.ndarray,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> RidgeFit:
    """Fit every column of the labels (NaN where unknown) on its known rows that are not held out.

    The smaller of two equally good penalties is taken. A column without labels gets a zero head,
    the largest penalty and NaN errors.
    """
    penalties_P = np.asarray(penalties, np.float64)
    shape = features_MxD.shape[1], label_MxA.shape[1]
    head_DxA, error_PxA = np.zeros(shape), np.full((penalties_P.size, shape[1]), np.nan)
    place_A = np.full(shape[1], int(penalties_P.argmax()))
    # Columns that the same responses know share the Gram matrix, the expensive part.
    known_UxM, pattern_A = np.unique(~np.isnan(label_MxA.T), axis=0, return_inverse=True)
    for pattern, known_M in enumerate(known_UxM):
        if not known_M.any():
            continue
        columns = np.flatnonzero(pattern_A.reshape(-1) == pattern)
        judged_M = held_out_rows(known_M, held_out_M, seed)
        fitted_M = known_M & ~judged_M if known_M.sum() > 1 else known_M
        label_nxa = label_MxA[:, columns]
        heads_PxDxa = solve_ridge(features_MxD[fitted_M], label_nxa[fitted_M], penalties_P)
        residual = features_MxD[judged_M].astype(np.float64) @ heads_PxDxa - label_nxa[judged_M]
        error_PxA[:, columns] = np.mean(residual**2, axis=1)
        place_A[columns] = error_PxA[:, columns].argmin(axis=0)
        head_DxA[:, columns] = heads_PxDxa[place_A[columns], :, np.arange(columns.size)].T
    return RidgeFit(head_DxA, penalties_P[place_A], error_PxA)
