"""Rows of a real store to training arrays, and their scaling."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from micro_rm.cache.pairs import read_pairs, write_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, file_checksum
from micro_rm.configs.resolve import SIMULATOR_FACTS, resolve
from micro_rm.configs.schema import Config, DataConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.features import Features, Scaler
from micro_rm.heads.run_data import RunData


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


def test_sides_are_both_responses_of_the_rows_asked_for(tiny: Any, features: Features) -> None:
    rows = np.array([119, 3, 3, 0])
    chosen_NxD, rejected_NxD = features.sides(rows, "ctx")
    np.testing.assert_array_equal(chosen_NxD, tiny.vectors["ctx/chosen"][rows])
    np.testing.assert_array_equal(rejected_NxD, tiny.vectors["ctx/rejected"][rows])
    assert chosen_NxD.dtype == rejected_NxD.dtype == np.float32


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


def test_the_identity_changes_no_bit() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    rows = Scaler.identity(2).apply(values[0], np.zeros_like(values[0]), values[1])
    np.testing.assert_array_equal(rows.delta_NxD, values[0])
    np.testing.assert_array_equal(rows.router_input_NxD, values[1])


# --- the store ------------------------------------------------------------------------------------


def test_reading_features_leaves_the_store_untouched(tiny: Any, tmp_path: Path) -> None:
    """Many views, many partitions, the same bytes."""
    store = tmp_path / "store"
    shutil.copytree(tiny.store, store)
    write_pairs(store, tiny.table)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    before = {path: file_checksum(path) for path in files}
    features = Features(FeatureStore(store), read_pairs(store, "tiny"))
    for fraction in (0.0, 0.3):
        train = TrainConfig(validation_fraction=fraction, features="standardized")
        config = resolve(Config(data=DataConfig(name="tiny"), train=train), SIMULATOR_FACTS)
        bench = RunData(config, features)
        bench.problem(adapt=False).train.load_sides()
        bench.stage2(bench.parts.test)
    assert {path: file_checksum(path) for path in files} == before
