"""The checks on random mixtures, and real heads on samples of a known population."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from micro_rm.common.errors import ConfigError
from micro_rm.configs.theory import TheoryConfig
from micro_rm.display.theory import theory_table
from micro_rm.heads.theory import bounds, experiment
from micro_rm.heads.theory.experiment import check_random_mixtures, make_population, run_theory

SMALL = TheoryConfig(mixtures=50, pairs=6000, spreads=[4.0, 1.0])
LIMITS = {
    "single": "best_blind",
    "joint": "best_single",
    "mixture": "best_single",
    "told": "irreducible",
}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return run_theory(SMALL)


def value_of(result: dict[str, Any], case: str, spread: float) -> dict[str, float]:
    (row,) = [r for r in result["sweep"] if (r["case"], r["spread"]) == (case, spread)]
    return {name: cell["value"] for name, cell in row["values"].items()}


# --- random mixtures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    return check_random_mixtures(2000, 0)


def test_two_thousand_random_mixtures_violate_nothing(checked: dict[str, Any]) -> None:
    assert list(checked["violations"].values()) == [0] * 5
    assert checked["identity_error"] < 1e-13


def test_the_stronger_bounds_see_more_of_the_gap(checked: dict[str, Any]) -> None:
    """The medians of this generator are 0.07, 0.14 and 0.78."""
    seen = checked["tightness"]
    medians = [seen[name]["median"] for name in ("paper_bound", "per_pair_bound", "weighted_bound")]
    assert 0.03 < medians[0] < 0.7 * medians[1] < 0.5 * medians[2] < 0.5
    for measured in seen.values():
        assert 0 <= measured["q10"] <= measured["median"] <= measured["q90"] <= 1
        assert sum(measured["histogram"]) == 2000


def test_a_bound_that_is_too_high_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores in place of probabilities would be caught by the check."""
    monkeypatch.setitem(experiment.BOUNDS, "weighted_bound", lambda mixture: 1.0)
    violations = check_random_mixtures(50, 0)["violations"]
    assert violations["best_single >= weighted_bound"] == 50
    assert violations["weighted_bound >= per_pair_bound"] == 0


# --- the population -------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [2, 5])
def test_the_population_has_the_stated_spread_and_clarity(groups: int) -> None:
    population = make_population(groups, 2.5, 0.7)
    np.testing.assert_allclose(np.linalg.norm(population.taste_DxK, axis=0), 2.5)
    np.testing.assert_allclose(population.gamma_KxK.sum(axis=1), 1)
    np.testing.assert_allclose(np.diag(population.gamma_KxK), 0.7)
    uniform = make_population(groups, 1.0, 1 / groups).gamma_KxK
    np.testing.assert_allclose(uniform, 1 / groups)


def test_draws_follow_the_stated_probabilities() -> None:
    """Groups given the prompt, and labels given group and pair, within four standard errors."""
    population, count = make_population(3, 2.0, 0.6), 40_000
    delta_NxD, kind_N, group_N = population.draw(np.random.default_rng(0), count)
    for kind in range(3):
        share_K = np.bincount(group_N[kind_N == kind], minlength=3) / np.sum(kind_N == kind)
        np.testing.assert_allclose(share_K, population.gamma_KxK[kind], atol=4 * 0.5 / 110)
    # Chosen minus rejected: E[sigmoid(|s|)] is how often the group's own score is right.
    score_N = np.einsum("nd,dn->n", delta_NxD, population.taste_DxK[:, group_N])
    expected = bounds.sigmoid(np.abs(score_N)).mean()
    assert np.mean(score_N > 0) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(count))


# --- fitted heads ---------------------------------------------------------------------------------


@pytest.mark.long
def test_the_result_is_plain_json_without_nan(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    cases = [(row["case"], row["spread"]) for row in result["sweep"]]
    names = [case.name for case in experiment.CASES]
    assert sorted(cases) == sorted((name, spread) for name in names for spread in (1.0, 4.0))


@pytest.mark.long
@pytest.mark.parametrize("case", ["ordered", "shuffled", "silent"])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_fitted_heads_stay_above_the_limits(
    result: dict[str, Any], case: str, spread: float
) -> None:
    """Expected losses are computed on the very pairs of the limits, so there is no noise."""
    values = value_of(result, case, spread)
    for model, limit in LIMITS.items():
        assert values[model] > values[limit], model
    for bound in ("weighted_bound", "per_pair_bound", "paper_bound"):
        assert values["irreducible"] <= values[bound] < values["best_single"]
        assert values[bound] < values["single"]


@pytest.mark.long
def test_models_come_near_the_limits_that_they_can_attain(result: dict[str, Any]) -> None:
    """The mixture has the form of sigma_bar, the told head that of sigma_k; one head neither.

    At spread 1 log-odds of sigma_bar are nearly linear, so that one head comes near as well. The
    tolerance is some ten parameters over twice the 5,250 training pairs, times three.
    """
    for case in ("ordered", "silent"):
        values = value_of(result, case, 1.0)
        for model, limit in LIMITS.items():
            assert values[model] - values[limit] < 0.01, (case, model)
    values = value_of(result, "ordered", 4.0)
    assert values["mixture"] - values["best_single"] < 0.01
    assert values["told"] - values["irreducible"] < 0.01
    assert values["single"] - values["best_blind"] > 0.02
    assert values["joint"] - values["best_single"] > 0.02


@pytest.mark.long
def test_the_router_gains_where_the_prompt_tells_the_group(result: dict[str, Any]) -> None:
    (row,) = [r for r in result["sweep"] if (r["case"], r["spread"]) == ("ordered", 4.0)]
    gain = row["values"]["gain"]
    assert gain["value"] > 0.1 > 10 * gain["standard_error"]
    assert abs(value_of(result, "silent", 1.0)["gain"]) < 0.005


@pytest.mark.long
def test_both_orders_empty_the_bound_of_the_paper_and_change_nothing_else(
    result: dict[str, Any],
) -> None:
    """The same on fitted heads: exchangeable pairs make the bound of the paper equal to H."""
    ordered, shuffled = (value_of(result, case, 4.0) for case in ("ordered", "shuffled"))
    assert ordered["paper_bound"] > ordered["irreducible"] + 0.02
    assert shuffled["paper_bound"] == pytest.approx(shuffled["irreducible"], abs=1e-12)
    for name in ordered.keys() - {"paper_bound"}:
        assert shuffled[name] == pytest.approx(ordered[name], abs=1e-9), name


@pytest.mark.long
def test_a_silent_prompt_changes_no_limit(result: dict[str, Any]) -> None:
    """Where all prompts are alike, the least loss without the prompt is the least loss."""
    silent, telling = (value_of(result, case, 4.0) for case in ("silent", "ordered"))
    assert silent["best_blind"] == pytest.approx(silent["best_single"], abs=1e-12)
    assert silent["weighted_bound"] == pytest.approx(silent["per_pair_bound"], abs=1e-12)
    assert telling["best_blind"] > telling["best_single"] + 0.05
    assert silent["irreducible"] == pytest.approx(telling["irreducible"], abs=1e-12)


def test_expected_losses_agree_with_losses_on_drawn_labels() -> None:
    """An orientation or a gamma gone wrong would show here; four standard errors."""
    population = make_population(3, 2.0, 0.8)
    rng = np.random.default_rng(5)
    delta_PxD = population.draw_pairs(rng, 2000)
    sigma_PxK = bounds.sigmoid(delta_PxD @ population.taste_DxK)
    mixture = bounds.Mixture(population.gamma_KxK, np.broadcast_to(sigma_PxK, (3, 2000, 3)))
    predictions = experiment.Predictions(*rng.normal(size=(4, 3, 2000)))
    values = experiment.measure(mixture, predictions)
    count = 100_000
    pair_N, kind_N = rng.integers(2000, size=count), rng.integers(3, size=count)
    group_N = (rng.random((count, 1)) > population.gamma_KxK[kind_N].cumsum(axis=1)).sum(axis=1)
    wins_N = rng.random(count) < sigma_PxK[pair_N, group_N]
    for name, reads_N, logits in (
        ("single", kind_N, predictions.single_XxP),
        ("mixture", kind_N, predictions.mixture_XxP),
        ("told", group_N, predictions.informed_KxP),
    ):
        logit_N = logits[reads_N, pair_N]
        loss_N = np.logaddexp(0, np.where(wins_N, -logit_N, logit_N))
        assert loss_N.mean() == pytest.approx(values[name], abs=4 * loss_N.std() / np.sqrt(count))


def test_standard_errors_shrink_with_the_root_of_the_pairs() -> None:
    """sd / sqrt(P) of the per-pair entropy, to the accuracy that 32 blocks allow."""
    rng = np.random.default_rng(1)
    sigma = rng.random((1, 8000, 2))
    mixture = bounds.Mixture(np.array([[0.5, 0.5]]), sigma)
    nothing = np.zeros((1, 8000))
    zeros = experiment.Predictions(nothing, nothing, nothing, np.zeros((2, 8000)))
    measured = experiment.measure_with_errors(mixture, zeros, exchangeable=False)
    entropy_P = bounds.binary_entropy(sigma[0]).mean(axis=1)
    expected = entropy_P.std() / np.sqrt(8000)
    assert measured["irreducible"]["standard_error"] == pytest.approx(expected, rel=0.4)
    assert measured["irreducible"]["value"] == pytest.approx(entropy_P.mean())


@pytest.mark.long
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    result: dict[str, Any],
) -> None:
    """Shapes are those of ``SMALL``, so that nothing compiles again."""
    same, other = (run_theory(replace(SMALL, spreads=[4.0], seed=seed)) for seed in (0, 1))
    assert same["random"] == result["random"]
    assert same["sweep"] == [row for row in result["sweep"] if row["spread"] == 4.0]
    assert other["random"] != same["random"]
    for one, two in zip(other["sweep"], same["sweep"], strict=True):
        for name in one["values"]:
            assert one["values"][name] != two["values"][name], name


# --- terminal and settings ------------------------------------------------------------------------


@pytest.mark.long
def test_the_terminal_shows_a_row_per_case_and_spread(result: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for part in theory_table(result):
        console.print(part)
    text = console.export_text()
    assert "0 of 5 inequalities on 50 random mixtures" in text
    assert "128.0" in text
    lines = text.splitlines()
    header = next(line for line in lines if "spread" in line)
    for column in ("H", "paper", "pair", "limit", "told", "mixture", "joint", "single"):
        assert column in header.split()
    values = value_of(result, "shuffled", 1.0)
    (row,) = [line for line in lines if line.startswith("shuffled")]
    assert row.split()[1:4] == ["1", *[f"{values['irreducible']:.3f}"] * 2]
    assert row.split()[-1] == f"{values['single']:.3f}"


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("mixtures", 0),
        ("num_groups", 1),
        ("num_groups", 21),
        ("clarity", 0.2),
        ("clarity", 1.0),
        ("spreads", []),
        ("spreads", [1.0, 0.0]),
        ("spreads", [float("nan")]),
        ("pairs", 999),
        ("seed", -1),
    ],
)
def test_a_wrong_setting_is_named(setting: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"theory.{setting}: expected .*, found "):
        TheoryConfig(**{setting: wrong})
