"""Standard errors, intervals and tests: closed forms, invariances, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from micro_rm.heads.evaluation.inference import (
    accuracy_interval,
    difference_interval,
    holm,
    p_value,
)
from micro_rm.heads.evaluation.variance import (
    Component,
    Estimate,
    combine,
    crossed_component,
    infer,
    unit_component,
)

ONE = np.zeros(200, int)
RNG = np.random.default_rng


def people(rng: np.random.Generator, count: int = 20, each: int = 10) -> tuple[np.ndarray, ...]:
    """Rows of people who differ: correctness and the person of each row."""
    person_N = np.repeat(np.arange(count), each)
    return (rng.random(person_N.size) < rng.uniform(0.3, 0.9, count)[person_N]) * 1.0, person_N


def test_equal_clusters_have_the_variance_of_their_means() -> None:
    correct_N, person_N = people(RNG(0))
    means = correct_N.reshape(20, 10).mean(axis=1)
    part = unit_component(correct_N, ONE, person_N)
    assert part.variance == pytest.approx(means.var(ddof=1) / 20)
    assert part.freedom == pytest.approx(19)


def test_attributes_with_units_of_their_own_add_like_strata() -> None:
    correct_N, person_N = people(RNG(1))
    attribute_N = (person_N >= 8).astype(int)  # 8 people judge one attribute, 12 the other
    means = correct_N.reshape(20, 10).mean(axis=1)
    strata = [means[:8], means[8:]]
    variance = sum(one.var(ddof=1) / one.size for one in strata) / 4
    part = unit_component(correct_N, attribute_N, person_N)
    assert part.variance == pytest.approx(variance)
    assert 11 < part.freedom <= 18


def test_repeating_every_row_changes_nothing() -> None:
    correct_N, person_N = people(RNG(2))
    attribute_N = np.arange(200) % 3
    for units in ([person_N], [person_N, np.arange(200) % 7]):
        once = infer(correct_N[None, None], attribute_N, units)
        twice = infer(
            np.tile(correct_N, 2)[None, None],
            np.tile(attribute_N, 2),
            [np.tile(unit_N, 2) for unit_N in units],
        )
        np.testing.assert_allclose(twice[:2], once[:2], rtol=1e-12)


def test_prompts_within_people_add_nothing_and_one_to_one_is_the_same() -> None:
    correct_N, person_N = people(RNG(3))
    nested = crossed_component(correct_N, ONE, [person_N, np.arange(200)])
    assert nested == unit_component(correct_N, ONE, person_N)
    same = crossed_component(correct_N, ONE, [np.arange(200), np.arange(200)[::-1]])
    assert same.variance == pytest.approx(unit_component(correct_N, ONE, np.arange(200)).variance)


def test_crossed_units_add_both_variances() -> None:
    rng = RNG(4)
    person_N, prompt_N = (part.ravel() for part in np.indices((30, 40)))
    value_N = rng.normal(size=30)[person_N] + 2 * rng.normal(size=40)[prompt_N]
    part = crossed_component(value_N, np.zeros(1200, int), [person_N, prompt_N])
    assert part.variance == pytest.approx(1 / 30 + 4 / 40, rel=0.35)


def test_attributes_of_one_unit_each_are_too_few_to_say() -> None:
    estimate = infer(np.ones((1, 1, 6)), np.repeat([0, 1], 3), [np.array([0, 0, 0, 1, 1, 1])])
    assert estimate.freedom == 0
    assert accuracy_interval(estimate, 6, 0.95) == (0, 1)
    assert difference_interval(estimate, 0.95) == (-1, 1)
    assert p_value(estimate, 6) == 1


def test_one_attribute_of_one_unit_has_the_largest_variance_there_is() -> None:
    correct_N, person_N = people(RNG(8))
    alone = infer(correct_N[None, None], ONE, [person_N])
    both = infer(
        np.append(correct_N, 1.0)[None, None], np.append(ONE, 1), [np.append(person_N, 99)]
    )
    assert both.value == pytest.approx((alone.value + 1) / 2)
    assert both.error**2 == pytest.approx((alone.error**2 + 0.25) / 4)


def test_three_kinds_of_crossed_units_add_their_variances() -> None:
    rng = RNG(9)
    kinds = [part.ravel() for part in np.indices((20, 25, 30))]
    value_N = sum(rng.normal(size=30)[unit_N] for unit_N in kinds)
    part = crossed_component(value_N, np.zeros(15000, int), kinds)
    assert part.variance == pytest.approx(1 / 20 + 1 / 25 + 1 / 30, rel=0.5)
    assert part.variance > 0.9 * sum(
        unit_component(value_N, np.zeros(15000, int), unit_N).variance for unit_N in kinds
    )


def test_seeds_and_draws_add_their_own_variance_and_freedom() -> None:
    correct_N, person_N = people(RNG(5))
    alone = infer(correct_N[None, None], ONE, [person_N])
    copies = infer(np.broadcast_to(correct_N, (5, 4, 200)), ONE, [person_N])
    np.testing.assert_allclose(copies, alone)
    shift_T = np.array([-0.1, 0.0, 0.1])  # the same rows under three seeds
    seeds = infer((correct_N + shift_T[:, None, None]), ONE, [person_N])
    assert seeds.value == pytest.approx(alone.value)
    assert seeds.error**2 == pytest.approx(alone.error**2 + 0.01 / 3)
    expected = combine([Component(alone.error**2, alone.freedom), Component(0.01 / 3, 2.0)])
    assert seeds.freedom == pytest.approx(expected.freedom)
    draws = infer((correct_N + shift_T[:, None])[None], ONE, [person_N])
    np.testing.assert_allclose(draws, seeds)


def test_rows_that_a_draw_does_not_score_are_left_out() -> None:
    correct_N, person_N = people(RNG(6))
    correct = np.tile(correct_N, (1, 2, 1))
    correct[0, 0, :50] = np.nan
    correct[0, :, 199] = np.nan
    estimate = infer(correct, ONE, [person_N])
    assert estimate.value == pytest.approx(correct_N[:199].mean())


def test_with_many_rows_the_interval_is_that_of_student() -> None:
    estimate = Estimate(0.7, 0.001, 12.0)
    half = stats.t.ppf(0.975, 12) * 0.001
    low, high = accuracy_interval(estimate, 1e6, 0.95)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=1e-5)


def test_rows_without_any_error_have_the_interval_of_wilson() -> None:
    low, high = accuracy_interval(Estimate(1.0, 0.0, 1e9), 12, 0.95)
    assert high == 1.0
    assert low == pytest.approx(stats.binomtest(12, 12).proportion_ci(method="wilson").low)


def test_many_rows_that_cancel_in_every_unit_leave_no_doubt() -> None:
    for error in (0.0, 1e-17):
        assert accuracy_interval(Estimate(0.5, error, 50.0), 200, 0.95) == (0.5, 0.5)


def test_five_units_cannot_show_a_difference_and_six_can() -> None:
    sure = Estimate(0.5, 1e-9, 100.0)
    assert p_value(sure, 5) == 0.0625 and p_value(sure, 6) == 0.03125
    assert p_value(sure, 0) == 1.0
    assert p_value(Estimate(0.2, 0.1, 8.0), 99) == pytest.approx(2 * stats.t.sf(2, 8))


def test_a_family_is_adjusted_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("rows", "accuracy", "spread"), [(12, 0.9, 0.0), (12, 0.97, 0.0), (25, 0.65, 0.2)]
)
def test_intervals_cover_what_they_promise(rows: int, accuracy: float, spread: float) -> None:
    """Twelve rows of one attribute, or 40 people with 25 rows each who differ by 0.2."""
    rng = RNG(7)
    units = 40 if spread else rows
    unit_N = np.repeat(np.arange(units), rows if spread else 1)
    attribute_N = np.zeros(unit_N.size, int)
    truth = np.clip(rng.normal(accuracy, spread, 10**5), 0, 1).mean() if spread else accuracy
    covered = 0
    for _ in range(600):
        chance_U = np.clip(rng.normal(accuracy, spread, units), 0, 1)
        correct_N = (rng.random(unit_N.size) < chance_U[unit_N]) * 1.0
        estimate = infer(correct_N[None, None], attribute_N, [unit_N])
        low, high = accuracy_interval(estimate, unit_N.size, 0.95)
        covered += low <= truth <= high
    assert 0.93 <= covered / 600 <= 0.985
