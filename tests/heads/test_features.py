"""Rows of a real store to training arrays, and their scaling."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.cache.pairs import PairTable, read_pairs, write_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, Identity, StoreError, file_checksum, sequence_key
from micro_rm.cache.writer import adopt_shards, open_manifest, shard_path, write_shard
from micro_rm.configs.resolve import SIMULATOR_FACTS, resolve
from micro_rm.configs.schema import Config, DataConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.features import Features, Scaler
from micro_rm.heads.run_data import RunData


def write_store(path: Path, identity: Identity, places: np.ndarray, vectors: np.ndarray) -> None:
    """A store of one shard."""
    keys = np.array([sequence_key([int(place)]) for place in places], KEY_DTYPE)
    manifest = open_manifest(path, identity, vectors.shape[1])
    write_shard(shard_path(path, 0), identity, "", keys, vectors)
    adopt_shards(path, manifest)


@pytest.fixture
def features(tiny: Any) -> Features:
    return Features(FeatureStore(tiny.store), read_pairs(tiny.store, "tiny"))


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "router"), [("plain", "plain"), ("ctx", "ctx"), ("plain", "context")]
)
def test_arrays_are_chosen_minus_rejected_and_the_prompt_of_the_rows_asked_for(
    tiny: Any, features: Features, head: str, router: str
) -> None:
    """In the order asked for, repetitions included, over the borders of shards."""
    rows = np.array([119, 3, 3, 0, 50, 81, 2])
    delta_NxD, router_input_NxD = features.arrays(rows, head, router)
    expected = tiny.vectors[f"{head}/chosen"][rows] - tiny.vectors[f"{head}/rejected"][rows]
    np.testing.assert_array_equal(delta_NxD, expected)
    np.testing.assert_array_equal(router_input_NxD, tiny.vectors[f"{router}/prompt"][rows])
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


def test_the_prompts_of_two_pairs_differ(features: Features) -> None:
    """G-F4: a router input that is the same for every prompt is a bug."""
    _, router_input_NxD = features.arrays(np.arange(0, 80, 2), "plain", "plain")
    assert router_input_NxD.std(axis=0).min() > 0.1


def test_shuffling_the_rows_of_the_store_changes_no_array(
    tiny: Any, features: Features, tmp_path: Path
) -> None:
    """G-D5: vectors are found through the pair table, not by their place in a shard."""
    store = features.store
    order = np.random.default_rng(0).permutation(len(store))
    write_store(tmp_path, store.manifest.identity, order, store.vectors(order))
    place_of = np.empty(len(store), np.int64)
    place_of[order] = np.arange(len(store))
    moved = {key: np.where(rows < 0, rows, place_of[rows]) for key, rows in tiny.table.rows.items()}
    shuffled = Features(FeatureStore(tmp_path), replace(tiny.table, rows=moved))
    for found, expected in zip(
        shuffled.arrays(np.arange(60), "ctx", "plain"),
        features.arrays(np.arange(60), "ctx", "plain"),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_16_bit_vectors_are_subtracted_in_float32(tmp_path: Path) -> None:
    """Two bfloat16 neighbours of 256 differ by 2, and their difference keeps all of its digits."""
    import ml_dtypes

    identity = Identity("", "", "", "", "", "", "", "", "", dtype="bfloat16", max_length=8)
    vectors = np.array([[256.0], [1.0078125]], np.float32).astype(ml_dtypes.bfloat16)
    write_store(tmp_path, identity, np.arange(2), vectors)
    rows = {f"plain/{role}": np.array([row]) for role, row in (("chosen", 0), ("rejected", 1))}
    rows["plain/prompt"] = np.array([0])
    table: Any = replace(_empty_table(), rows=rows)
    delta_1x1, _ = Features(FeatureStore(tmp_path), table).arrays(np.array([0]), "plain", "plain")
    assert delta_1x1.dtype == np.float32
    assert delta_1x1[0, 0] == 256.0 - 1.0078125


def _empty_table() -> PairTable:
    nothing = np.empty(0)
    return PairTable("x", "", {}, {}, {}, nothing, nothing, nothing, {}, {})


@pytest.mark.parametrize("row", [78, 79])
def test_a_view_that_was_not_embedded_for_a_row_is_an_error_with_a_remedy(
    features: Features, row: int
) -> None:
    """Prompt 39 is a training prompt outside the pool: it has no ctx vectors."""
    with pytest.raises(StoreError, match=r"'tiny' has no ctx/chosen vectors.*run micro-rm embed"):
        features.arrays(np.array([0, row]), "ctx", "plain")


def test_a_view_that_the_table_lacks_altogether_is_the_same_error(
    tiny: Any, features: Features
) -> None:
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


def test_population_statistics_of_two_rows() -> None:
    """By hand; a divisor of N - 1 would give 1.414 instead of 1."""
    scaler = Scaler.fit(np.array([[3.0], [4.0]], np.float32), np.array([[1.0], [3.0]], np.float32))
    assert scaler.delta_scale_D == pytest.approx([np.sqrt(12.5)])
    assert scaler.router_mean_D == pytest.approx([2.0])
    assert scaler.router_scale_D == pytest.approx([1.0])


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
    hnp.arrays(
        np.float32, (2, 3, 2), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    )
)
@settings(deadline=None, max_examples=20)
def test_the_identity_changes_no_bit(values: np.ndarray) -> None:
    rows = Scaler.identity(2).apply(values[0], np.zeros_like(values[0]), values[1])
    np.testing.assert_array_equal(rows.delta_NxD, values[0])
    np.testing.assert_array_equal(rows.router_input_NxD, values[1])


# --- the store ------------------------------------------------------------------------------------


def test_reading_features_leaves_the_store_untouched(tiny: Any, tmp_path: Path) -> None:
    """G-S20 on disk: many views, many partitions, the same bytes."""
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
