"""Rated responses of a pair table: each response once, whatever pairs it is part of (pure)."""

from __future__ import annotations

import numpy as np

from ..cache.pairs import PairTable


def rated_responses(
    table: PairTable, rows_N: np.ndarray, held_out_rows: np.ndarray, view: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Store rows (M,), ratings (M, A) and whether held out (M,) of the responses of some pairs.

    A rating that no pair of a response brings is NaN.
    """
    sides = [table.rows[f"{view}/{role}"][rows_N] for role in ("chosen", "rejected")]
    places_M, response_N = np.unique(np.concatenate(sides), return_inverse=True)
    rating_MxA = np.full((places_M.size, len(table.ratings)), np.nan)
    for column, rating_Nx2 in enumerate(table.ratings.values()):
        rating_N = rating_Nx2[rows_N].T.reshape(-1)
        known_N = ~np.isnan(rating_N)
        rating_MxA[response_N[known_N], column] = rating_N[known_N]
    held_out_M = np.zeros(places_M.size, bool)
    held_out_M[response_N[np.tile(np.isin(rows_N, held_out_rows), 2)]] = True
    return places_M, rating_MxA, held_out_M
