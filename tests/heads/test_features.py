"""Rows of a real store to training arrays, splits and budgets."""

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
from micro_rm.cache.schema import Identity, StoreError, file_checksum, sequence_key
from micro_rm.cache.writer import StoreWriter
from micro_rm.configs.schema import AdaptConfig, ViewsConfig
from micro_rm.heads.features import (
    BudgetError,
    Features,
    Scaler,
    adaptable_attributes,
    draw_budget,
    partition,
    stage1_rows,
)

PLAIN = ViewsConfig(adapt_head="plain", adapt_router="plain")


@pytest.fixture
def features(tiny: Any) -> Features:
    return Features(FeatureStore(tiny.store), read_pairs(tiny.store, "tiny"))


def with_text(table: PairTable, **columns: list[str]) -> PairTable:
    """The same pairs with other labels."""
    return replace(table, text={**table.text, **columns})


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
    with StoreWriter(
        tmp_path, store.manifest.identity, store.width, job="", shard_rows=10**6, seal_seconds=60
    ) as writer:
        writer.add([sequence_key([int(place)]) for place in order], store.vectors(order))
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
    with StoreWriter(tmp_path, identity, 1, job="", shard_rows=9, seal_seconds=60) as writer:
        writer.add([sequence_key([0]), sequence_key([1])], vectors)
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
    rows = Scaler.fit(delta_NxD, prompt_NxD).apply(delta_NxD, prompt_NxD)
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
    rows = Scaler.fit(zeros, fives).apply(zeros, fives)
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


@given(hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(-1e4, 1e4, width=32)))
@settings(deadline=None, max_examples=20)
def test_the_identity_changes_no_bit(values: np.ndarray) -> None:
    rows = Scaler.identity(2).apply(*values)
    np.testing.assert_array_equal(rows.delta_NxD, values[0])
    np.testing.assert_array_equal(rows.router_input_NxD, values[1])


@pytest.mark.parametrize("scaling", ["raw", "standardized"])
def test_stage_1_scales_every_row_with_statistics_of_the_training_rows(
    tiny: Any, features: Features, scaling: str
) -> None:
    parts = partition(features.table, 0.3)
    train, validation, scaler = stage1_rows(features, parts, PLAIN, scaling)
    raw = {
        name: (
            tiny.vectors["plain/chosen"][rows] - tiny.vectors["plain/rejected"][rows],
            tiny.vectors["plain/prompt"][rows],
        )
        for name, rows in (("train", parts.train), ("validation", parts.validation))
    }
    expected = Scaler.fit(*raw["train"]) if scaling == "standardized" else Scaler.identity(8)
    np.testing.assert_array_equal(scaler.delta_scale_D, expected.delta_scale_D)
    for rows, arrays in ((train, raw["train"]), (validation, raw["validation"])):
        for found, wanted in zip(rows, expected.apply(*arrays), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_validation_may_not_take_every_training_row(features: Features) -> None:
    parts = partition(features.table, 0.999)
    with pytest.raises(BudgetError, match=r"'tiny' has no training rows left; lower train\.valid"):
        stage1_rows(features, parts, PLAIN, "standardized")


# --- partition ------------------------------------------------------------------------------------


@given(st.floats(0, 0.99))
@settings(deadline=None, max_examples=30)
def test_no_row_serves_two_purposes_and_none_is_lost(tiny: Any, fraction: float) -> None:
    parts = partition(tiny.table, fraction)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together.tolist()) == list(range(len(tiny.table)))


def test_test_rows_are_those_of_the_data(tiny: Any) -> None:
    parts = partition(tiny.table, 0.3)
    assert parts.test.tolist() == [
        row for row, split in enumerate(tiny.table.text["split"]) if split == "test"
    ]


def test_validation_holds_out_whole_prompts(tiny: Any) -> None:
    parts = partition(tiny.table, 0.3)
    prompt_id = np.asarray(tiny.table.text["prompt_id"])
    assert parts.validation.size > 0
    assert not set(prompt_id[parts.train]) & set(prompt_id[parts.validation])


def test_a_larger_fraction_only_adds_validation_rows(tiny: Any) -> None:
    """The choice hangs on the prompt alone, so it survives new data and another fraction."""
    held_out = [set(partition(tiny.table, f).validation.tolist()) for f in (0.0, 0.1, 0.3, 0.6)]
    assert held_out[0] == set()
    assert held_out[0] < held_out[1] < held_out[2] < held_out[3]


def test_the_fraction_is_the_expected_share_of_prompts() -> None:
    rng = np.random.default_rng(0)
    names = [rng.bytes(16).hex() for _ in range(4000)]
    table: Any = replace(_empty_table(), text={"split": ["train"] * 4000, "prompt_id": names})
    assert partition(table, 0.25).validation.size == pytest.approx(1000, abs=90)


def test_only_attributes_with_a_wish_can_be_adapted_to(tiny: Any) -> None:
    """In order of appearance; rows without an attribute or a context state no wish."""
    attribute = ["z", "a", "z", "", "mute"] * 24
    context = ["please", "please", "", "please", ""] * 24
    table = with_text(tiny.table, attribute=attribute, context=context)
    everything = np.arange(len(attribute))
    assert adaptable_attributes(table, everything) == ["z", "a"]
    assert adaptable_attributes(table, everything[1:2]) == ["a"]
    assert adaptable_attributes(table, everything[3:5]) == []


# --- budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "seed"), [(1, 0), (7, 0), (7, 3), (16, 1)])
def test_a_draw_has_exactly_its_rows_per_attribute_and_none_twice(
    tiny: Any, budget: int, seed: int
) -> None:
    """G-H12: training rows of the pool only, disjoint from validation and test."""
    parts = partition(tiny.table, 0.2)
    config = AdaptConfig(budget=budget, pool=32, draws=3)
    rows_SxN = draw_budget(tiny.table, parts.train, config, seed)
    attribute = np.asarray(tiny.table.text["attribute"])
    assert rows_SxN.shape == (3, 2 * budget)
    for draw in rows_SxN:
        assert len(set(draw.tolist())) == draw.size
        assert set(draw.tolist()) <= set(parts.train.tolist())
        assert tiny.table.pool[draw].all()
        assert [(attribute[draw] == name).sum() for name in ("brief", "polite")] == [budget] * 2


def test_draws_depend_on_seed_and_number_and_on_nothing_else(tiny: Any) -> None:
    parts = partition(tiny.table, 0.0)

    def draw(draws: int, seed: int) -> np.ndarray:
        config = AdaptConfig(budget=8, pool=32, draws=draws)
        return draw_budget(tiny.table, parts.train, config, seed)

    three, again, other = draw(3, 0), draw(3, 0), draw(3, 1)
    np.testing.assert_array_equal(three, again)
    np.testing.assert_array_equal(draw(1, 0), three[:1])
    sets = {frozenset(rows.tolist()) for rows in (*three, *other)}
    assert len(sets) == 6


def test_every_pool_row_can_be_drawn(tiny: Any) -> None:
    """No bias by position: over many draws each of the 64 pool rows occurs about evenly."""
    parts = partition(tiny.table, 0.0)
    rows = draw_budget(tiny.table, parts.train, AdaptConfig(budget=8, pool=32, draws=400), 0)
    _, counts = np.unique(rows, return_counts=True)
    assert counts.size == 64
    assert counts == pytest.approx(100, abs=45)


def test_rows_without_a_context_are_not_drawn(tiny: Any) -> None:
    context = list(tiny.table.text["context"])
    context[0::4] = [""] * len(context[0::4])  # every other prompt, attribute brief
    table = with_text(tiny.table, context=context)
    rows = draw_budget(
        table, partition(table, 0.0).train, AdaptConfig(budget=16, pool=32, draws=1), 0
    )
    assert all(context[row] for row in rows[0])


def test_rows_without_an_attribute_are_not_drawn(tiny: Any) -> None:
    """They state no wish. Attributes that only occur in the test split need no budget either."""
    attribute = ["brief" if row % 2 else "" for row in range(80)] + ["novel"] * 40
    table = with_text(tiny.table, attribute=attribute)
    config = AdaptConfig(budget=16, pool=32, draws=1)
    (rows,) = draw_budget(table, partition(table, 0.0).train, config, 0)
    assert {attribute[row] for row in rows} == {"brief"}


def test_a_budget_of_zero_draws_no_row(tiny: Any) -> None:
    """G-H12."""
    config = AdaptConfig(budget=0, draws=2)
    rows_SxN = draw_budget(tiny.table, partition(tiny.table, 0.2).train, config, 0)
    assert rows_SxN.shape == (2, 0)


def test_too_few_rows_name_the_attribute_both_numbers_and_the_remedies(tiny: Any) -> None:
    parts = partition(tiny.table, 0.0)
    with pytest.raises(BudgetError) as caught:
        draw_budget(tiny.table, parts.train, AdaptConfig(budget=33, pool=40), 0)
    assert str(caught.value) == (
        "adapt.budget: expected 33 training rows with a context for attribute 'brief', found 32; "
        "lower adapt.budget, raise adapt.pool, or add rows and contexts"
    )


def test_reading_features_leaves_the_store_untouched(tiny: Any, tmp_path: Path) -> None:
    """G-S20 on disk: many views, many partitions, the same bytes."""
    store = tmp_path / "store"
    shutil.copytree(tiny.store, store)
    write_pairs(store, tiny.table)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    before = {path: file_checksum(path) for path in files}
    features = Features(FeatureStore(store), read_pairs(store, "tiny"))
    for fraction in (0.0, 0.3):
        stage1_rows(features, partition(features.table, fraction), PLAIN, "standardized")
    assert {path: file_checksum(path) for path in files} == before
