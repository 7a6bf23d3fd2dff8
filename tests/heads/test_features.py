"""Rows of a real store to training arrays, and their scaling."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.cache.pairs import read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError
from micro_rm.heads.features import Features, Scaler


@pytest.fixture
def features(tiny: Any) -> Features:
    return Features(FeatureStore(tiny.store), read_pairs(tiny.store, "tiny"))


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_are_chosen_minus_rejected_and_the_prompt_of_the_rows_asked_for(
    tiny: Any, features: Features
) -> None:
    """In the order asked for, repetitions included, over the borders of shards."""
    rows = np.array([119, 3, 3, 0, 50, 81, 2])
    delta_NxD, router_input_NxD = features.arrays(rows, "plain", "context")
    expected = tiny.vectors["plain/chosen"][rows] - tiny.vectors["plain/rejected"][rows]
    np.testing.assert_array_equal(delta_NxD, expected)
    np.testing.assert_array_equal(router_input_NxD, tiny.vectors["context/prompt"][rows])
    assert delta_NxD.dtype == router_input_NxD.dtype == np.float32


def test_no_rows_asked_for_are_no_rows(features: Features) -> None:
    """A budget of zero reads nothing, and so cannot miss a view."""
    for array in features.arrays(np.array([], np.int64), "ctx", "context"):
        assert array.shape == (0, 8)


def test_16_bit_vectors_are_subtracted_in_float32() -> None:
    """Two bfloat16 neighbours of 256 differ by 2, and their difference keeps all of its digits."""
    vectors = np.array([[256.0], [1.0078125]], ml_dtypes.bfloat16)
    store: Any = SimpleNamespace(vectors=lambda rows: vectors[rows])
    table: Any = SimpleNamespace(
        rows={f"plain/{role}": np.arange(2) for role in ("chosen", "rejected", "prompt")}
    )
    table.rows["plain/rejected"] = np.array([1, 0])
    delta_1x1, _ = Features(store, table).arrays(np.array([0]), "plain", "plain")
    assert delta_1x1.dtype == np.float32
    assert delta_1x1[0, 0] == 256.0 - 1.0078125


def test_a_view_that_was_not_embedded_for_a_row_is_an_error_with_a_remedy(
    tiny: Any, features: Features
) -> None:
    """Prompt 39 is a training prompt outside the pool: it has no ctx vectors."""
    with pytest.raises(StoreError, match=r"'tiny' has no ctx/chosen vectors.*run micro-rm embed"):
        features.arrays(np.array([0, 79]), "ctx", "plain")
    rows = {key: value for key, value in tiny.table.rows.items() if not key.startswith("context")}
    lacking = Features(features.store, replace(tiny.table, rows=rows))
    with pytest.raises(StoreError, match="no context/prompt vectors"):
        lacking.arrays(np.array([0]), "plain", "context")


# --- scaler ---------------------------------------------------------------------------------------


def test_standardized_differences_have_unit_root_mean_square_and_keep_their_mean() -> None:
    """A mean difference is what a reward is made of: divided, not centred."""
    rng = np.random.default_rng(0)
    delta_NxD = rng.normal(3.0, [1.0, 5.0], (500, 2)).astype(np.float32)
    prompt_NxD = rng.normal(-2.0, [0.1, 7.0], (500, 2)).astype(np.float32)
    rows = Scaler.fit(delta_NxD, prompt_NxD).apply(delta_NxD, np.zeros_like(delta_NxD), prompt_NxD)
    np.testing.assert_allclose(np.mean(np.square(rows.delta_NxD), axis=0), [1, 1], atol=1e-5)
    scale_D = np.sqrt(np.mean(delta_NxD.astype(np.float64) ** 2, axis=0))
    np.testing.assert_allclose(rows.delta_NxD, delta_NxD / scale_D, rtol=1e-5)
    np.testing.assert_allclose(np.mean(rows.router_input_NxD, axis=0), [0, 0], atol=1e-5)
    # Population deviation: the divisor is N.
    np.testing.assert_allclose(np.std(rows.router_input_NxD, axis=0), [1, 1], atol=1e-5)
    assert rows.delta_NxD.dtype == rows.router_input_NxD.dtype == np.float32


def test_constant_dimensions_are_not_divided_by_zero() -> None:
    zeros, fives = np.zeros((4, 1), np.float32), np.full((4, 1), 5.0, np.float32)
    rows = Scaler.fit(zeros, fives).apply(zeros, zeros, fives)
    np.testing.assert_array_equal(rows.delta_NxD, zeros)
    np.testing.assert_array_equal(rows.router_input_NxD, zeros)


def test_dimensions_that_carry_rounding_only_are_not_blown_up() -> None:
    """Below a thousandth of the median scale a dimension is dead; just above it is not."""
    noise_NxD = np.random.default_rng(0).choice([-1.0, 1.0], (500, 5)).astype(np.float32)
    noise_NxD -= noise_NxD.mean(axis=0)
    scale_D = np.array([1, 2, 1, 5e-4, 2e-3], np.float32) / noise_NxD.std(axis=0)
    values_NxD = noise_NxD * scale_D
    scaler = Scaler.fit(values_NxD, values_NxD)
    for found_D in (scaler.delta_scale_D, scaler.router_scale_D):
        np.testing.assert_allclose(found_D, [1, 2, 1, 1, 2e-3], rtol=1e-4)


@given(
    hnp.arrays(np.float32, (11, 3), elements=st.floats(-8, 8, width=32)),
    st.sets(st.integers(1, 10)),
    st.floats(-1e4, 1e4, width=32),
)
@settings(deadline=None, max_examples=60)
def test_a_scaler_does_not_depend_on_how_the_rows_are_cut(
    router_NxD: np.ndarray, cuts: set[int], offset: float
) -> None:
    delta_NxD, router_NxD = router_NxD[::-1] * 2, router_NxD + np.float32(offset)
    whole = Scaler.fit(delta_NxD, router_NxD)
    edges = [0, *sorted(cuts), 11]
    cut = Scaler.fit_blocks((delta_NxD[a:b], router_NxD[a:b]) for a, b in itertools.pairwise(edges))
    for name in ("delta_scale_D", "router_mean_D", "router_scale_D"):
        np.testing.assert_allclose(
            getattr(cut, name), getattr(whole, name), rtol=1e-6, err_msg=name
        )


def test_one_pass_is_as_accurate_as_two_far_from_zero() -> None:
    """A standard deviation of 1e-3 around 1e4 would drown in sums of squares."""
    rng = np.random.default_rng(0)
    router_NxD = 1e4 + 1e-3 * rng.integers(-4, 5, (400, 4)) * np.array([1, 2, 1, 3])
    delta_NxD = rng.normal(size=(400, 4))
    found = Scaler.fit_blocks(
        (delta_NxD[a : a + 90], router_NxD[a : a + 90]) for a in range(0, 400, 90)
    )
    np.testing.assert_allclose(found.router_scale_D, router_NxD.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.router_mean_D, router_NxD.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(
        found.delta_scale_D, np.sqrt(np.mean(delta_NxD**2, axis=0)), rtol=1e-6
    )
