"""A run's data as methods see them: views, scaling, labels, and labelled draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from micro_rm.cache.pairs import NO_ROW
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import RunConfig, ViewsConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.adaptation import BudgetError
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods.interface import NO_LABEL
from micro_rm.tests.heads.tiny_run import text

STANDARDIZED = TrainConfig(validation_fraction=0.2, features="standardized")
ROWS = np.array([119, 3, 3, 4, 50])


def stored(tiny: Any, rows: np.ndarray, head: str, router: str) -> tuple[np.ndarray, ...]:
    """Responses and prompts of some rows, straight from the vectors of the fixture."""
    places = (f"{head}/chosen", f"{head}/rejected", f"{router}/prompt")
    return tuple(tiny.vectors[place][rows] for place in places)


def raw(tiny: Any, rows: np.ndarray, head: str, router: str) -> tuple[np.ndarray, np.ndarray]:
    """Differences and prompts of some rows."""
    chosen_NxD, rejected_NxD, prompt_NxD = stored(tiny, rows, head, router)
    return chosen_NxD - rejected_NxD, prompt_NxD


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", ["raw", "standardized"])
def test_every_row_is_scaled_with_statistics_of_the_training_rows(
    tiny: Any, make_run_data: Any, features: Any
) -> None:
    """In their stage-1 view, whatever rows and views they are applied to."""
    run_data = make_run_data(train=replace(STANDARDIZED, features=features))
    expected = Scaler.identity(8)
    if features == "standardized":
        expected = Scaler.fit(*raw(tiny, run_data.parts.train, "plain", "plain"))
        assert np.ptp(expected.delta_scale_D) > 0.5, "the fixture must need scaling"
    np.testing.assert_array_equal(run_data.scaler.delta_scale_D, expected.delta_scale_D)
    pool = np.flatnonzero(tiny.table.pool)
    problem = run_data.problem(adapt=False)
    for examples, rows, view in (
        (problem.train, run_data.parts.train, "plain"),
        (problem.validation, run_data.parts.validation, "plain"),
        (run_data.stage1(pool), pool, "plain"),
        (run_data.stage2(pool), pool, "ctx"),
        (run_data.stage2(run_data.parts.test), run_data.parts.test, "ctx"),
    ):
        wanted = expected.apply(*stored(tiny, rows, view, view))
        for found, array in zip(examples.rows, wanted, strict=True):
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(("head", "router"), [("plain", "context"), ("ctx", "plain")])
def test_the_views_of_stage_2_are_the_configured_ones(
    tiny: Any, make_run_data: Any, head: Any, router: Any
) -> None:
    run_data = make_run_data(views=ViewsConfig(adapt_head=head, adapt_router=router))
    test = run_data.parts.test
    for found, expected in zip(
        run_data.stage2(test).rows, raw(tiny, test, head, router), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    budget = run_data.problem(adapt=True).budget
    assert budget is not None and run_data.draws is not None
    _, prompt_NxD = raw(tiny, run_data.draws.rows_SxB.reshape(-1), head, router)
    np.testing.assert_array_equal(
        np.asarray(budget.rows.router_input_NxD).reshape(-1, 8), prompt_NxD
    )


def test_sides_differ_by_the_difference_and_are_scaled_like_it(
    tiny: Any, make_run_data: Any
) -> None:
    run_data = make_run_data(train=STANDARDIZED)
    for examples, rows, view in (
        (run_data.stage1(ROWS[1:]), ROWS[1:], "plain"),
        (run_data.stage2(run_data.parts.test), run_data.parts.test, "ctx"),
    ):
        sides = examples.load_sides()
        chosen_NxD = tiny.vectors[f"{view}/chosen"][rows] / run_data.scaler.delta_scale_D
        np.testing.assert_array_equal(sides.chosen_NxD, chosen_NxD)
        difference_NxD = sides.chosen_NxD - sides.rejected_NxD
        np.testing.assert_allclose(difference_NxD, examples.rows.delta_NxD, atol=1e-5)


def test_labels_are_numbers_that_stay_with_their_names(tiny: Any, make_run_data: Any) -> None:
    """The same number for the same name in every choice of rows, and none for an empty name."""
    names = ["cy", "", "ann", "bob"] * 30
    run_data = make_run_data(text(tiny, attribute=names))
    everything, some = run_data.stage1(np.arange(80)), run_data.stage1(np.array([3, 1, 2, 7]))
    numbers = dict(zip(names, everything.attribute_N.tolist(), strict=False))
    assert numbers[""] == NO_LABEL
    assert len(set(numbers.values())) == 4
    assert min(numbers[name] for name in ("ann", "bob", "cy")) >= 0
    assert some.attribute_N.tolist() == [numbers[name] for name in ("bob", "", "ann", "bob")]
    assert len(set(everything.user_N.tolist())) == 2  # the two raters of the fixture


def test_a_group_is_numbered_by_its_place_among_those_with_labelled_rows(
    tiny: Any, make_run_data: Any
) -> None:
    """Test rows of an attribute without any are nobody's."""
    attribute = ["polite" if row % 2 else "brief" for row in range(80)] + ["novel", "polite"] * 20
    run_data = make_run_data(text(tiny, attribute=attribute))
    assert run_data.groups == ("brief", "polite")
    test = run_data.stage2(run_data.parts.test)
    assert test.group_N.tolist() == [NO_LABEL, 1] * 20
    assert run_data.problem(adapt=False).groups == run_data.groups
    by_user = make_run_data(adapt=AdaptConfig(budget=8, group="user"))
    assert by_user.groups == ("rater of brief", "rater of polite")
    assert by_user.stage2(run_data.parts.test).group_N.tolist() == [0, 1] * 20


def test_length_counts_the_tokens_by_which_chosen_is_longer(tiny: Any, make_run_data: Any) -> None:
    longer_N = make_run_data().stage1(ROWS).longer_N
    tokens = tiny.table.tokens
    assert longer_N.tolist() == [int(tokens["chosen"][r] - tokens["rejected"][r]) for r in ROWS]
    assert longer_N.min() < 0 < longer_N.max()


def test_validation_may_not_take_every_training_row(make_run_data: Any) -> None:
    run_data = make_run_data(train=TrainConfig(validation_fraction=0.999))
    with pytest.raises(BudgetError, match=r"'tiny' has no training rows left; lower train\.valid"):
        run_data.problem(adapt=False)


# --- labelled rows --------------------------------------------------------------------------------


def test_the_budget_is_the_draws_in_the_views_of_stage_2(tiny: Any, make_run_data: Any) -> None:
    run_data = make_run_data(train=STANDARDIZED, views=ViewsConfig(adapt_router="context"))
    problem = run_data.problem(adapt=True)
    budget, draws = problem.budget, run_data.draws
    assert budget is not None and draws is not None
    assert budget.rows.delta_NxD.shape == (3, 16, 8)
    assert budget.draws == 3
    assert problem.groups == draws.groups
    np.testing.assert_array_equal(budget.mask_SxB, np.ones((3, 16)))
    np.testing.assert_array_equal(budget.group_B, draws.group_B)
    sides = budget.load_sides()
    attribute = np.asarray(tiny.table.text["attribute"])
    for draw, rows_B in enumerate(draws.rows_SxB):
        wanted = run_data.scaler.apply(*stored(tiny, rows_B, "ctx", "context"))
        np.testing.assert_array_equal(budget.rows.delta_NxD[draw], wanted.delta_NxD)
        np.testing.assert_array_equal(budget.rows.router_input_NxD[draw], wanted.router_input_NxD)
        chosen_BxD = tiny.vectors["ctx/chosen"][rows_B] / run_data.scaler.delta_scale_D
        np.testing.assert_array_equal(sides.chosen_NxD[draw], chosen_BxD)
        assert [problem.groups[group] for group in budget.group_B] == attribute[rows_B].tolist()


def test_the_same_words_are_the_same_wish(tiny: Any, make_run_data: Any) -> None:
    context = [f"wish {row % 3}" for row in range(120)]
    run_data = make_run_data(text(tiny, context=context))
    budget = run_data.problem(adapt=True).budget
    assert budget is not None and run_data.draws is not None
    pairs = zip(
        budget.wording_SxB.ravel().tolist(), run_data.draws.rows_SxB.ravel().tolist(), strict=True
    )
    seen = {(number, context[row]) for number, row in pairs}
    assert len(seen) == len(dict(seen)) == 3


def test_a_place_that_a_user_cannot_fill_counts_nothing(tiny: Any, make_run_data: Any) -> None:
    """It holds finite numbers of some labelled row, under a mask of zero."""
    config = AdaptConfig(budget=5, pool=32, draws=2, group="user")
    run_data = make_run_data(text(tiny, user=["ann"] * 3 + ["bob"] * 117), adapt=config)
    budget = run_data.problem(adapt=True).budget
    assert budget is not None and run_data.draws is not None
    np.testing.assert_array_equal(budget.mask_SxB, [[1, 1, 1, 0, 0, 1, 1, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(budget.mask_SxB == 0, run_data.draws.rows_SxB == NO_ROW)
    assert np.isfinite(budget.rows.delta_NxD).all()
    assert budget.by_group(budget.mask_SxB)[:, 0].sum() == 6
    rows_B = run_data.draws.rows_SxB[1][[0, 1, 2, 5, 6, 7, 8, 9]]
    np.testing.assert_array_equal(
        np.asarray(budget.rows.delta_NxD)[1][[0, 1, 2, 5, 6, 7, 8, 9]],
        raw(tiny, rows_B, "ctx", "ctx")[0],
    )


def test_without_groups_there_is_nothing_to_draw(tiny: Any, make_run_data: Any) -> None:
    run_data = make_run_data(text(tiny, attribute=""))
    assert (run_data.groups, run_data.draws, run_data.problem(adapt=True).budget) == (
        (),
        None,
        None,
    )
    assert make_run_data().problem(adapt=False).budget is None, "stage 1 sees no labelled row"


def test_a_budget_of_zero_is_empty_but_keeps_its_draws(make_run_data: Any) -> None:
    budget = make_run_data(adapt=AdaptConfig(budget=0, draws=2)).problem(adapt=True).budget
    assert budget is not None
    assert budget.rows.delta_NxD.shape == (2, 0, 8)
    assert budget.mask_SxB.shape == budget.wording_SxB.shape == (2, 0)
    assert budget.load_sides().chosen_NxD.shape == (2, 0, 8)


def test_another_seed_draws_other_rows_from_the_same_data(make_run_data: Any) -> None:
    benches = [make_run_data(run=RunConfig(seed=seed)) for seed in (3, 3, 4)]
    one, same, other = (run_data.draws.rows_SxB for run_data in benches)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    keys = [jax.random.key_data(run_data.problem(adapt=False).key).tolist() for run_data in benches]
    assert keys[0] == keys[1] != keys[2]
