"""Rows by purpose: training, validation, test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.pairs import PairTable
from micro_rm.heads.partition import partition


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
    names, nothing = [rng.bytes(16).hex() for _ in range(4000)], np.empty(0)
    text = {"split": ["train"] * 4000, "prompt_id": names}
    table = PairTable("x", "", {}, {}, text, nothing, nothing, nothing, {}, {})
    assert partition(table, 0.25).validation.size == pytest.approx(1000, abs=90)
