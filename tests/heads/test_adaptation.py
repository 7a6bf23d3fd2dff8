"""Labelled rows: who may be adapted to, which rows are drawn, and what is never scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.pairs import NO_ROW, PairTable
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.heads.adaptation import (
    BudgetError,
    Draws,
    adaptable_groups,
    draw_budget,
    drawable_rows,
    group_labels,
    scored_mask,
)
from micro_rm.heads.partition import partition

ATTRIBUTES = ["brief", "polite"]


def adapt(budget: int = 8, **changes: Any) -> AdaptConfig:
    return AdaptConfig(budget=budget, pool=max(32, budget), **changes)


def with_text(table: PairTable, **columns: list[str]) -> PairTable:
    """The same pairs with other labels."""
    return replace(table, text={**table.text, **columns})


def draw(table: PairTable, config: AdaptConfig, seed: int = 0, fraction: float = 0.0) -> Draws:
    return draw_budget(table, partition(table, fraction), config, seed)


# --- who can be adapted to ------------------------------------------------------------------------


def test_groups_with_a_wish_come_in_order_of_appearance(tiny: Any) -> None:
    """Where some rows state a wish, those without one cannot teach a router and are left out."""
    attribute = ["z", "a", "z", "", "mute"] * 24
    context = ["please", "please", "", "please", ""] * 24
    table, config = with_text(tiny.table, attribute=attribute, context=context), adapt()
    parts = partition(table, 0.0)
    assert adaptable_groups(table, parts, config) == ("z", "a")
    only_a = replace(parts, train=parts.train[1:2])
    assert adaptable_groups(table, only_a, config) == ("a",)
    nobody = replace(parts, train=parts.train[3:4])
    assert adaptable_groups(table, nobody, config) == ()


def test_without_any_wish_labels_alone_can_be_adapted_to(tiny: Any) -> None:
    """Methods that read no wish still serve such data."""
    table, config = with_text(tiny.table, context=[""] * 120), adapt()
    parts = partition(table, 0.0)
    assert adaptable_groups(table, parts, config) == ("brief", "polite")
    assert drawable_rows(table, parts, config).sum() == 64  # the pool


def test_one_row_with_a_wish_leaves_out_all_rows_without(tiny: Any) -> None:
    """Of the rows that can be drawn: a wish in another part of the data changes nothing."""
    for row, expected in ((6, 1), (79, 64), (119, 64)):  # pool, training but no pool, test
        context = [""] * 120
        context[row] = "please"
        table = with_text(tiny.table, context=context)
        assert drawable_rows(table, partition(table, 0.0), adapt()).sum() == expected


@pytest.mark.parametrize("source", ["train", "test"])
def test_rows_come_from_the_pool_or_from_the_test_split(tiny: Any, source: Any) -> None:
    parts, config = partition(tiny.table, 0.2), adapt(source=source)
    found = set(np.flatnonzero(drawable_rows(tiny.table, parts, config)).tolist())
    pool = {row for row in parts.train.tolist() if tiny.table.pool[row]}
    assert found == (pool if source == "train" else set(parts.test.tolist()))
    assert not found & set(parts.validation.tolist())


def test_users_are_groups_of_their_own(tiny: Any) -> None:
    user = ["ann", "bob", "", "ann"] * 30
    table, config = with_text(tiny.table, user=user), adapt(group="user")
    assert group_labels(table, config).tolist() == user
    assert adaptable_groups(table, partition(table, 0.0), config) == ("ann", "bob")
    draws = draw(table, replace(config, draws=2))
    assert draws.groups == ("ann", "bob")
    for rows_B in draws.rows_SxB:
        assert [user[row] for row in rows_B] == ["ann"] * 8 + ["bob"] * 8


# --- the draws ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "budget", "seed"), [("train", 7, 3), ("test", 16, 1), ("train", 0, 0)]
)
def test_a_draw_has_exactly_its_rows_per_group_in_group_order_and_none_twice(
    tiny: Any, source: Any, budget: int, seed: int
) -> None:
    """From rows of one purpose only, disjoint from validation."""
    parts, config = partition(tiny.table, 0.2), adapt(budget, draws=3, source=source)
    draws = draw_budget(tiny.table, parts, config, seed)
    attribute = np.asarray(tiny.table.text["attribute"])
    assert draws.groups == ("brief", "polite")
    assert draws.rows_SxB.shape == (3, 2 * budget)
    assert draws.group_B.tolist() == [0] * budget + [1] * budget
    drawable = set(np.flatnonzero(drawable_rows(tiny.table, parts, config)).tolist())
    for rows_B in draws.rows_SxB:
        assert len(set(rows_B.tolist())) == rows_B.size
        assert set(rows_B.tolist()) <= drawable
        assert attribute[rows_B].tolist() == ["brief"] * budget + ["polite"] * budget


def test_draws_depend_on_seed_and_number_and_on_nothing_else(tiny: Any) -> None:
    three, again, other = (draw(tiny.table, adapt(draws=3), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(three.rows_SxB, again.rows_SxB)
    np.testing.assert_array_equal(draw(tiny.table, adapt(draws=1)).rows_SxB, three.rows_SxB[:1])
    sets = {frozenset(rows.tolist()) for rows in (*three.rows_SxB, *other.rows_SxB)}
    assert len(sets) == 6


@given(
    st.integers(0, 12), st.integers(0, 12), st.integers(0, 1000), st.sampled_from(["train", "test"])
)
@settings(deadline=None, max_examples=30)
def test_a_larger_budget_starts_with_the_rows_of_a_smaller_one(
    tiny: Any, one: int, other: int, seed: int, source: Any
) -> None:
    """A curve over budgets adds rows and exchanges none."""
    small, large = sorted((one, other))
    by_group = [
        draw(tiny.table, adapt(n, draws=2, source=source), seed).rows_SxB.reshape(2, 2, n)
        for n in (small, large)
    ]
    np.testing.assert_array_equal(by_group[1][:, :, :small], by_group[0])


def test_every_pool_row_can_be_drawn(tiny: Any) -> None:
    """No bias by position: over many draws each of the 64 pool rows occurs about evenly."""
    rows, counts = np.unique(draw(tiny.table, adapt(draws=400)).rows_SxB, return_counts=True)
    assert counts.size == 64
    assert counts == pytest.approx(100, abs=45)
    # Nor by the place in the draw: what comes first decides what a smaller budget sees.
    first = np.unique(draw(tiny.table, adapt(1, draws=400)).rows_SxB)
    np.testing.assert_array_equal(first, rows)


def test_too_few_rows_name_the_attribute_both_numbers_and_the_remedies(tiny: Any) -> None:
    draw(tiny.table, adapt(20, source="test"))
    with pytest.raises(BudgetError) as caught:
        draw(tiny.table, adapt(21, source="test"))
    assert str(caught.value) == (
        "adapt.budget: expected 21 test rows for attribute 'brief', found 20; "
        "lower adapt.budget, raise adapt.pool, or add rows and contexts"
    )


def test_a_user_with_fewer_rows_gives_all_of_them_and_leaves_places_empty(tiny: Any) -> None:
    """Raters are many and write little: one with three rows must not stop the run."""
    user = ["ann"] * 3 + ["bob"] * 117
    table = with_text(tiny.table, user=user)
    draws = draw(table, adapt(5, draws=4, group="user"))
    assert draws.groups == ("ann", "bob")
    ann_Sx5, bob_Sx5 = draws.rows_SxB[:, :5], draws.rows_SxB[:, 5:]
    np.testing.assert_array_equal(ann_Sx5[:, 3:], np.full((4, 2), NO_ROW))
    assert all(sorted(rows.tolist()) == [0, 1, 2] for rows in ann_Sx5[:, :3])
    assert len({tuple(rows.tolist()) for rows in ann_Sx5}) > 1, "the order is drawn, too"
    assert (bob_Sx5 != NO_ROW).all()
    assert draws.group_B.tolist() == [0] * 5 + [1] * 5


# --- what is scored -------------------------------------------------------------------------------


@given(st.integers(0, 19), st.integers(1, 4), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_rows_that_a_draw_adapts_to_are_never_scored_in_it(
    tiny: Any, budget: int, count: int, seed: int
) -> None:
    """Per draw and group the number of scored test rows drops by exactly n."""
    parts, config = partition(tiny.table, 0.2), adapt(budget, draws=count, source="test")
    draws = draw_budget(tiny.table, parts, config, seed)
    counts_SxN = scored_mask(tiny.table, draws, config, parts.test, ())
    assert counts_SxN.shape == (count, 40)
    attribute = np.asarray(tiny.table.text["attribute"])[parts.test]
    for rows_B, counts_N in zip(draws.rows_SxB, counts_SxN, strict=True):
        assert not set(rows_B.tolist()) & set(parts.test[counts_N].tolist())
        for name in ATTRIBUTES:
            assert counts_N[attribute == name].sum() == 20 - budget


def test_training_rows_cost_no_test_row_and_empty_places_neither(tiny: Any) -> None:
    parts = partition(tiny.table, 0.2)
    for draws in (
        draw_budget(tiny.table, parts, adapt(8), 0),
        Draws(("ann",), np.full((5, 8), NO_ROW)),
    ):
        counts_SxN = scored_mask(tiny.table, draws, adapt(8), parts.test, ["prompt"])
        np.testing.assert_array_equal(counts_SxN, np.ones((5, 40), bool))


def test_what_shares_a_prompt_or_a_response_with_a_labelled_row_is_not_scored(tiny: Any) -> None:
    """Row 0 is labelled. 1 has its prompt, 2 its chosen response as the rejected one, 3 the same
    response in another group."""
    table = with_text(
        tiny.table,
        prompt_id=["p", "p", *(f"q{n}" for n in range(118))],
        chosen=["a", "b", "c", "a", *(f"c{n}" for n in range(116))],
        rejected=["x", "y", "a", "z", *(f"r{n}" for n in range(116))],
        attribute=["g", "g", "g", "h", *(["g"] * 116)],
    )
    draws, rows = Draws(("g",), np.array([[0]])), np.arange(6)
    for apart, left in (
        (("prompt", "response"), [3, 4, 5]),
        (("prompt",), [2, 3, 4, 5]),
        (("response",), [1, 3, 4, 5]),
    ):
        (counts_N,) = scored_mask(table, draws, adapt(1), rows, apart)
        assert np.flatnonzero(counts_N).tolist() == left
