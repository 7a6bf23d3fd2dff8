"""First and second moments of rows that arrive in blocks: as many rows as there are (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Moments:
    """Sums over N rows, in float64: of the rows (D,) and of their outer products (D, D)."""

    count: int
    sum_D: np.ndarray
    sum_DxD: np.ndarray

    @property
    def mean_D(self) -> np.ndarray:
        """Mean row."""
        return self.sum_D / max(self.count, 1)

    def second_moment(self, *, centred: bool) -> np.ndarray:
        """(D, D) mean outer product; ``centred`` about the mean row, dividing by N."""
        moment_DxD = self.sum_DxD / max(self.count, 1)
        return moment_DxD - np.outer(self.mean_D, self.mean_D) if centred else moment_DxD


def row_blocks(array_NxD: np.ndarray, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
    """The array in slices of at most ``rows`` rows; none for an array without rows."""
    for start in range(0, array_NxD.shape[0], rows):
        yield array_NxD[start : start + rows]


def accumulate(blocks: Iterable[np.ndarray], width: int) -> Moments:
    """Moments of all rows of some (n, D) blocks with D = ``width``; one block is held at a time.

    Sums of float32 rows are taken in float64, so the cut into blocks is a matter of rounding.
    """
    count, sum_D, sum_DxD = 0, np.zeros(width), np.zeros((width, width))
    for block in blocks:
        block_nxD = np.asarray(block, np.float64)
        count += block_nxD.shape[0]
        sum_D += block_nxD.sum(axis=0)
        sum_DxD += block_nxD.T @ block_nxD
    return Moments(count, sum_D, sum_DxD)
