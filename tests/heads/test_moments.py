"""Moments of rows in blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.heads.moments import accumulate, row_blocks


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, size=(count, width)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), width=st.integers(1, 6), block=st.integers(1, 70))
def test_streamed_moments_are_those_of_the_whole_array(count: int, width: int, block: int) -> None:
    rows_NxD = rows(count, width)
    moments = accumulate(row_blocks(rows_NxD, block), width)
    exact_NxD = rows_NxD.astype(np.float64)
    assert moments.count == count
    np.testing.assert_allclose(moments.mean_D, exact_NxD.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(
        moments.second_moment(centred=False), exact_NxD.T @ exact_NxD / count, atol=1e-12
    )
    np.testing.assert_allclose(
        moments.second_moment(centred=True),
        np.cov(exact_NxD, rowvar=False, bias=True).reshape(width, width),
        atol=1e-11,
    )


def test_sums_are_taken_in_float64() -> None:
    """In float32, 1 is lost beside 2^25."""
    rows_NxD = np.array([[2.0**25], [1.0], [1.0]], np.float32)
    moments = accumulate(row_blocks(rows_NxD), 1)
    assert moments.sum_D.dtype == moments.sum_DxD.dtype == np.float64
    assert moments.sum_D[0] == 2.0**25 + 2
    assert moments.sum_DxD[0, 0] == 2.0**50 + 2


def test_blocks_are_read_one_at_a_time() -> None:
    """More rows than fit in memory are no more than one block at any time."""
    alive = 0

    class Block(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def blocks():
        nonlocal alive
        for number in range(20):
            alive += 1
            assert alive <= 2
            yield rows(3, 2, seed=number).view(Block)

    assert accumulate(blocks(), 2).count == 60


def test_no_rows_have_no_moments() -> None:
    moments = accumulate(row_blocks(np.zeros((0, 3))), 3)
    assert moments.count == 0
    for centred in (True, False):
        np.testing.assert_array_equal(moments.second_moment(centred=centred), np.zeros((3, 3)))
