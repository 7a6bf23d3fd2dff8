"""Parts of hard EM by themselves: units of rows, refilled clusters, and weights by label."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.heads.methods.maxmin_em import label_log_weights, number_units, refill

fill = jax.jit(refill, static_argnames="minimum")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 7), st.randoms())
def test_units_are_runs_of_one_label(labels: list[int], chunk: int, random: Any) -> None:
    label_N = np.array(labels)
    order_N = np.array(random.sample(range(label_N.size), label_N.size))
    unit_N = number_units(label_N, chunk, order_N)
    assert sorted(set(unit_N)) == list(range(unit_N.max() + 1))
    for label in set(labels):
        sizes = np.sort(np.unique(unit_N[label_N == label], return_counts=True)[1])[::-1]
        rows = int((label_N == label).sum())
        assert sizes.tolist() == [chunk] * (rows // chunk) + [rows % chunk] * (rows % chunk > 0)
    for unit in range(unit_N.max() + 1):
        assert len(set(label_N[unit_N == unit])) == 1
    # The first rows in the given order share the first unit of their label.
    firsts = [row for row in order_N if label_N[row] == label_N[order_N[0]]][:chunk]
    assert len(set(unit_N[firsts])) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 3), st.integers(0, 99))
def test_refilling_moves_as_few_and_the_worst(clusters: list[int], minimum: int, seed: int) -> None:
    cluster_U = np.array(clusters)
    score_UxK = np.random.default_rng(seed).normal(size=(12, 4)).astype(np.float32)
    found_U, given_K = map(
        np.asarray, fill(jnp.asarray(score_UxK), jnp.asarray(cluster_U), minimum)
    )
    before_K, after_K = (np.bincount(c, minlength=4) for c in (cluster_U, found_U))
    assert after_K.min() >= minimum
    np.testing.assert_array_equal(given_K, np.maximum(minimum - before_K, 0))
    moved_U = found_U != cluster_U
    assert moved_U.sum() == given_K.sum()
    own_U = score_UxK[np.arange(12), cluster_U]
    for donor in range(4):
        left = own_U[(cluster_U == donor) & ~moved_U]
        gone = own_U[(cluster_U == donor) & moved_U]
        if gone.size:
            assert left.min() >= gone.max()


def test_weights_are_shares_of_rows_by_label() -> None:
    cluster_N, label_N = jnp.array([0, 1, 1, 1, 2]), jnp.array([0, 0, 0, 2, 2])
    weights_LxK = np.exp(label_log_weights(cluster_N, label_N, 3, 3))
    expected = [[1 / 3, 2 / 3, 0], [0.2, 0.6, 0.2], [0, 0.5, 0.5], [0.2, 0.6, 0.2]]
    np.testing.assert_allclose(weights_LxK, expected, atol=3e-6)
    assert (weights_LxK > 0).all()
