"""The numbers of report.json from test rows with known answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation.metrics import expected_calibration_error, head_accuracy
from micro_rm.heads.evaluation.report import (
    ORACLE,
    VALIDATED,
    best_head_summary,
    build_report,
    with_best_heads,
)

CONFIG = EvaluateConfig(bootstrap=200)


def numbers(value: Any) -> Iterator[float]:
    """Every number in a nested report."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def test_the_report_has_every_key_of_the_contract_and_survives_json(make_report: Any) -> None:
    report = make_report()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {"dataset", "record", "methods", "heads"} <= report.keys()
    assert report["dataset"] == "tiny"
    assert set(report["heads"]) == set(report["methods"]) - {"length_only"}  # it has no heads
    for method in report["methods"].values():
        assert {"rule", "macro", "attributes", "nll", "ece"} <= method.keys()
        assert method["macro"].keys() >= {"accuracy", "low", "high"}
        assert list(method["attributes"]) == ["brief", "polite"]
        for cell in method["attributes"].values():
            assert cell.keys() >= {"accuracy", "n", "ties", "low", "high"}
            assert isinstance(cell["n"], int)
            assert isinstance(cell["ties"], int)
    for name, heads in report["heads"].items():
        count = 1 if name == "single_bt" else 2
        assert list(heads["accuracy"]) == ["brief", "polite"]
        assert all(len(accuracy_K) == count for accuracy_K in heads["accuracy"].values())
        assert len(heads["usage"]) == len(heads["names"]) == count
        assert all(isinstance(head, str) for head in heads["names"])
        assert len(heads["correlation"]) == len(heads["correlation"][0]) == count
        assert 0 <= heads["routing_nats"] <= math.log(count)
    assert all(math.isfinite(number) for number in numbers(report))


def test_macro_accuracy_is_the_mean_over_attributes_not_over_rows(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Nine right rows of one attribute and a wrong one of another are 1/2, not 9/10."""
    test = make_test_rows([0] * 9 + [1], range(10), "many", "few")
    scored = make_scored(np.array([[1.0]] * 9 + [[-1.0]]))
    method = build_report("x", test, {"a": scored}, CONFIG, 0)["methods"]["a"]
    assert method["macro"]["accuracy"] == 0.5
    assert method["draws"] == {"count": 1, "std": 0.0, "macro": [0.5]}
    cells = method["attributes"]
    assert (cells["many"]["accuracy"], cells["many"]["n"]) == (1.0, 9)
    assert (cells["few"]["accuracy"], cells["few"]["n"]) == (0.0, 1)


def test_the_order_of_attributes_changes_no_number(make_scored: Any, make_test_rows: Any) -> None:
    rng = np.random.default_rng(1)
    attribute_N, prompt_N = rng.integers(0, 2, 40), np.arange(40) // 2
    scored = {"a": make_scored(rng.normal(size=(40, 3)))}
    one = build_report("x", make_test_rows(attribute_N, prompt_N, "p", "q"), scored, CONFIG, 0)
    other = build_report(
        "x", make_test_rows(1 - attribute_N, prompt_N, "q", "p"), scored, CONFIG, 0
    )
    assert one == other


def test_ties_count_half_and_are_counted(make_scored: Any, make_test_rows: Any) -> None:
    test = make_test_rows([0, 0, 0, 1], range(4), "p", "q")
    scored = make_scored(np.array([[0.0], [0.0], [1.0], [1.0]]))
    cells = build_report("x", test, {"a": scored}, CONFIG, 0)["methods"]["a"]["attributes"]
    assert (cells["p"]["accuracy"], cells["p"]["ties"]) == (pytest.approx(2 / 3), 2)
    assert (cells["q"]["accuracy"], cells["q"]["ties"]) == (1.0, 0)


def test_draws_are_averaged_and_their_spread_is_reported(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Two heads, two rows; the first draw believes the right head, the second the wrong one once.

    The spread is the population deviation of the macro accuracies 1 and 1/2.
    """
    test = make_test_rows([0, 1], [0, 1], "p", "q")
    with np.errstate(divide="ignore"):
        log_weights_SxNxK = np.log([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    scored = make_scored(np.array([[2.0, -2.0], [2.0, -2.0]]), log_weights_SxNxK)
    report = build_report("x", test, {"a": scored}, CONFIG, 0)
    method = report["methods"]["a"]
    assert method["macro"]["accuracy"] == 0.75
    assert method["draws"] == {"count": 2, "std": 0.25, "macro": [1.0, 0.5]}
    assert report["heads"]["a"]["usage"] == [0.75, 0.25]
    assert report["heads"]["a"]["weights"] == {"p": [1.0, 0.0], "q": [0.5, 0.5]}
    assert method["nll"] == pytest.approx(np.log1p(np.exp(-2)) + 2 / 4)


def test_loss_and_calibration_are_over_all_rows_and_draws(
    make_scored: Any, make_test_rows: Any
) -> None:
    scored = make_scored(np.array([[2.0], [0.0], [-1.0]]))
    test = make_test_rows([0, 0, 1], range(3), "p", "q")
    method = build_report("x", test, {"a": scored}, CONFIG, 0)["methods"]["a"]
    wins_N = 1 / (1 + np.exp(-np.array([2.0, 0.0, -1.0])))
    assert method["nll"] == pytest.approx(-np.log(wins_N).mean())
    assert method["ece"] == pytest.approx(expected_calibration_error(wins_N))


@pytest.mark.parametrize("rule", ["R1", "R2"])
def test_swapping_every_pair_turns_the_accuracies_around(
    make_scored: Any, make_test_rows: Any, rule: str
) -> None:
    """Accuracy a becomes 1 - a, with ties present."""
    rng = np.random.default_rng(2)
    delta_NxK = rng.integers(-1, 2, (40, 2)).astype(float)
    test = make_test_rows(rng.integers(0, 2, 40), np.arange(40), "p", "q")
    one, other = (
        build_report("x", test, {"a": make_scored(sign * delta_NxK, rule=rule)}, CONFIG, 0)
        for sign in (1, -1)
    )
    cells, swapped = (report["methods"]["a"]["attributes"] for report in (one, other))
    assert cells["p"]["ties"] == swapped["p"]["ties"] > 0
    for name, cell in cells.items():
        assert swapped[name]["accuracy"] == pytest.approx(1 - cell["accuracy"])
    macro, turned = (report["methods"]["a"]["macro"]["accuracy"] for report in (one, other))
    assert turned == pytest.approx(1 - macro)


@given(st.permutations(range(3)))
@settings(deadline=None, max_examples=6)
def test_renumbering_the_heads_changes_no_method(
    make_scored: Any, make_test_rows: Any, order: list[int]
) -> None:
    rng = np.random.default_rng(3)
    delta_NxK, logits_SxNxK = rng.normal(size=(30, 3)), rng.normal(size=(2, 30, 3))
    log_weights = logits_SxNxK - np.logaddexp.reduce(logits_SxNxK, axis=-1, keepdims=True)
    test = make_test_rows(np.arange(30) % 2, np.arange(30), "p", "q")
    one = build_report("x", test, {"a": make_scored(delta_NxK, log_weights)}, CONFIG, 0)
    scored = make_scored(delta_NxK[:, order], log_weights[..., order])
    other = build_report("x", test, {"a": scored}, CONFIG, 0)
    assert other["methods"]["a"]["attributes"] == one["methods"]["a"]["attributes"]
    assert other["methods"]["a"]["nll"] == pytest.approx(one["methods"]["a"]["nll"])
    usage = one["heads"]["a"]["usage"]
    assert other["heads"]["a"]["usage"] == pytest.approx([usage[k] for k in order])


# --- intervals and comparisons --------------------------------------------------------------------


def test_intervals_surround_their_value_and_shrink_with_more_prompts(
    make_scored: Any, make_test_rows: Any
) -> None:
    widths = []
    for prompts in (30, 300):
        correct_N = np.arange(2 * prompts) % 3 > 0
        delta_Nx1 = np.where(correct_N, 1.0, -1.0)[:, None]
        test = make_test_rows(np.tile([0, 1], prompts), np.repeat(range(prompts), 2), "p", "q")
        method = build_report("x", test, {"a": make_scored(delta_Nx1)}, CONFIG, 0)["methods"]["a"]
        for cell in (method["macro"], *method["attributes"].values()):
            assert cell["low"] < cell["accuracy"] < cell["high"]
        widths.append(method["macro"]["high"] - method["macro"]["low"])
    assert widths[1] < widths[0] / 2


def test_repeating_every_row_of_a_prompt_leaves_every_interval(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Rows of a prompt are resampled together."""
    delta_Nx1 = np.where(np.arange(40) % 3 > 0, 1.0, -1.0)[:, None]
    attribute, prompt = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    once = build_report(
        "x", make_test_rows(attribute, prompt, "p", "q"), {"a": make_scored(delta_Nx1)}, CONFIG, 0
    )
    repeated = build_report(
        "x",
        make_test_rows(np.tile(attribute, 5), np.tile(prompt, 5), "p", "q"),
        {"a": make_scored(np.tile(delta_Nx1, (5, 1)))},
        CONFIG,
        0,
    )
    assert repeated["methods"]["a"]["macro"] == once["methods"]["a"]["macro"]
    # The count beside an accuracy is of rows all the same.
    counts = [report["methods"]["a"]["attributes"]["p"]["n"] for report in (once, repeated)]
    assert counts == [20, 100]


def test_a_method_compared_with_itself_differs_by_exactly_nothing(
    make_scored: Any, make_test_rows: Any
) -> None:
    """All methods share the resamples; independent ones would leave noise."""
    rng = np.random.default_rng(4)
    scored = make_scored(rng.normal(size=(40, 1)))
    test = make_test_rows(np.arange(40) % 2, np.arange(40), "p", "q")
    (comparison,) = build_report("x", test, {"a": scored, "b": scored}, CONFIG, 0)["comparisons"]
    assert comparison == {"method": "b", "against": "a", "difference": 0, "low": 0, "high": 0}


def compared(scored: dict[str, Any], test: Any) -> list[tuple[str, str, float]]:
    comparisons = build_report("x", test, scored, CONFIG, 0)["comparisons"]
    return [(item["method"], item["against"], item["difference"]) for item in comparisons]


def test_every_method_is_compared_with_the_single_reward_and_with_micro(
    make_scored: Any, make_test_rows: Any
) -> None:
    """No pair twice, nothing with itself, whatever the order."""
    test = make_test_rows([0, 0], [0, 1], "p")
    worth = {"pal": -1.0, "micro": 1.0, "single_bt": 0.0, "vpl": 1.0}
    scored = {name: make_scored(np.full((2, 1), delta)) for name, delta in worth.items()}
    assert compared(scored, test) == [
        ("pal", "single_bt", -0.5),
        ("micro", "single_bt", 0.5),
        ("vpl", "single_bt", 0.5),
        ("pal", "micro", -1.0),
        ("vpl", "micro", 0.0),
    ]
    without = {name: scored[name] for name in ("pal", "micro", "vpl")}
    assert compared(without, test) == [("pal", "micro", -1.0), ("vpl", "micro", 0.0)]


def test_without_a_reference_the_first_method_is_the_one(
    make_scored: Any, make_test_rows: Any
) -> None:
    test = make_test_rows([0, 0], [0, 1], "p")
    scored = {
        name: make_scored(np.full((2, 1), delta)) for name, delta in (("w", -1.0), ("r", 1.0))
    }
    assert compared(scored, test) == [("r", "w", 1.0)]
    assert compared({"w": scored["w"]}, test) == []


def test_the_seed_decides_the_intervals_and_nothing_else(
    make_scored: Any, make_test_rows: Any
) -> None:
    scored = {"a": make_scored(np.random.default_rng(5).normal(size=(40, 1)))}
    test = make_test_rows(np.arange(40) % 2, np.arange(40), "p", "q")
    one, same, other = (build_report("x", test, scored, CONFIG, seed) for seed in (0, 0, 1))
    assert one == same
    assert one["methods"]["a"]["macro"] != other["methods"]["a"]["macro"]
    one_accuracy, other_accuracy = (r["methods"]["a"]["macro"]["accuracy"] for r in (one, other))
    assert one_accuracy == other_accuracy


def test_wordings_have_an_interval_of_their_own(make_reward: Any, make_test_rows: Any) -> None:
    """One of four wordings is misread: many prompts cannot show how much hangs on that."""
    wording_N = np.tile(np.arange(8), 50)
    correct_N = np.where(wording_N == 0, -1.0, 1.0)
    attribute_N = wording_N // 4
    scored = {"a": make_reward(correct_N[None])}
    test = make_test_rows(attribute_N, np.arange(400), "p", "q", wording=wording_N)
    method = build_report("x", test, scored, CONFIG, 0)["methods"]["a"]
    result, macro = method["wordings"], method["macro"]
    assert result["count"] == 8
    assert result["low"] < macro["low"] < macro["accuracy"] == 0.875 < result["high"] == 1.0
    without = make_test_rows(attribute_N, np.arange(400), "p", "q")
    assert build_report("x", without, scored, CONFIG, 0)["methods"]["a"]["wordings"] is None
    few = make_test_rows(attribute_N, np.arange(400), "p", "q", wording=attribute_N)
    assert build_report("x", few, scored, CONFIG, 0)["methods"]["a"]["wordings"] is None


def test_rows_that_are_not_scored_are_in_no_wording(make_reward: Any, make_test_rows: Any) -> None:
    """What a method decides on a row that it has adapted to changes no interval."""
    wording_N = np.array([0, 0, 1, 1])
    mask_1xN = np.array([[True, False, True, True]])
    test = make_test_rows([0] * 4, range(4), "p", wording=wording_N)
    one, other = (
        build_report("x", test, {"a": make_reward([delta], counts=mask_1xN)}, CONFIG, 0)
        for delta in ([1.0, 9, -1, 1], [1.0, -9, -1, 1])
    )
    assert one["methods"]["a"]["wordings"] == other["methods"]["a"]["wordings"] is not None


# --- heads ----------------------------------------------------------------------------------------


def test_heads_are_named_after_what_they_are_best_at_or_called_unspecific(
    make_scored: Any, make_test_rows: Any
) -> None:
    sign_N = np.tile([1.0, -1.0], 10)
    delta_NxK = np.stack([sign_N, -sign_N, np.repeat([1.0, -1.0], 10)], axis=1)
    test = make_test_rows(np.tile([0, 1], 10), np.arange(20), "brief", "polite")
    heads = build_report("x", test, {"a": make_scored(delta_NxK)}, CONFIG, 0)["heads"]["a"]
    assert heads["names"] == ["brief", "polite", "unspecific"]
    assert heads["accuracy"] == {"brief": [1.0, 0.0, 0.5], "polite": [0.0, 1.0, 0.5]}


# --- best single heads ----------------------------------------------------------------------------


def macro(report: dict[str, Any], name: str) -> float:
    return report["methods"][name]["macro"]["accuracy"]


def test_the_oracle_is_optimistic_even_without_any_signal(
    make_scored: Any, make_test_rows: Any
) -> None:
    """With random labels the head that is selected on the test rows still beats 1/2."""
    delta_NxK = np.random.default_rng(6).normal(size=(200, 8))
    test = make_test_rows(np.arange(200) % 4, np.arange(200), *"abcd")
    scored = with_best_heads({"a": make_scored(delta_NxK)}, ["a"], test, {})
    report = build_report("x", test, scored, CONFIG, 0)
    assert macro(report, "a" + ORACLE) > 0.55
    assert np.mean(list(report["heads"]["a"]["accuracy"].values())) == pytest.approx(0.5, abs=0.04)


def test_the_validated_head_is_chosen_elsewhere_and_scored_here(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Validation prefers head 1 for p and head 0 for q; the test rows agree for q only."""
    delta_NxK = np.array([[1.0, -1.0], [1.0, -1.0]])
    test = make_test_rows([0, 1], [0, 1], "p", "q")
    validation = {"a": np.array([[0.4, 0.6], [0.6, 0.4]])}
    scored = with_best_heads({"a": make_scored(delta_NxK)}, ["a"], test, validation)
    report = build_report("x", test, scored, CONFIG, 0)
    assert list(report["methods"]) == ["a", "a" + VALIDATED, "a" + ORACLE]
    assert (macro(report, "a" + VALIDATED), macro(report, "a" + ORACLE)) == (0.5, 1.0)
    cells = report["methods"]["a" + VALIDATED]["attributes"]
    assert (cells["p"]["accuracy"], cells["q"]["accuracy"]) == (0.0, 1.0)
    assert list(report["heads"]) == ["a"]


def test_heads_selected_on_other_rows_never_see_the_scored_ones(
    make_scored: Any, make_test_rows: Any
) -> None:
    """With shuffled test labels the validated head falls to chance, the oracle does not."""
    rng = np.random.default_rng(0)
    attribute_N = np.repeat(np.arange(4), 200)
    delta_NxK = rng.normal(size=(800, 6)) + np.eye(4, 6)[attribute_N] * 3
    validation = {"a": head_accuracy(delta_NxK[::2], attribute_N[::2], 4)}
    test = make_test_rows(attribute_N[1::2], np.arange(400), *"abcd")
    result = []
    for flips in (1, rng.choice([-1, 1], size=(400, 1))):
        scored = {"a": make_scored(delta_NxK[1::2] * flips)}
        result.append(
            build_report("x", test, with_best_heads(scored, ["a"], test, validation), CONFIG, 0)
        )
    assert macro(result[0], "a" + VALIDATED) > 0.97
    assert macro(result[1], "a" + VALIDATED) == pytest.approx(0.5, abs=0.06)
    assert macro(result[1], "a" + ORACLE) > macro(result[1], "a" + VALIDATED)


def test_only_owners_of_several_heads_have_a_best_one(
    make_scored: Any, make_reward: Any, make_test_rows: Any
) -> None:
    """Not a router over the heads of another method, nor a single head, nor none at all."""
    test = make_test_rows([0, 0], [0, 1], "p")
    two, one = np.ones((2, 2)), np.ones((2, 1))
    scored = {
        "own": make_scored(two),
        "routed": make_scored(two),
        "one": make_scored(one),
        "none": make_reward(one.T),
    }
    result = with_best_heads(scored, ["own", "one", "none"], test, {"one": np.ones((1, 1))})
    assert set(result) == {*scored, "own" + ORACLE}
    assert all(result[name] is scored[name] for name in scored)


def test_best_heads_are_explained_in_a_sentence_with_their_owner() -> None:
    assert best_head_summary("micro" + ORACLE) == (
        "The head of micro that is best on these very rows: a bound, not a result."
    )
    validated = best_head_summary("shared_base" + VALIDATED)
    assert "head of shared_base" in validated and "validation rows" in validated


# --- rows that a draw has adapted to --------------------------------------------------------------


def test_rows_that_no_draw_scores_are_in_no_number(make_reward: Any, make_test_rows: Any) -> None:
    """n drops by exactly the rows taken, whatever the method decides on them."""
    test = make_test_rows([0, 0, 0, 1, 1], range(5), "p", "q")
    mask_1xN = np.array([[True, True, False, True, False]])
    reports = [
        build_report("x", test, {"a": make_reward(delta_1xN, counts=mask_1xN)}, CONFIG, 0)
        for delta_1xN in ([[1.0, -1, 9, 2, 9]], [[1.0, -1, -9, 2, -9]])
    ]
    assert reports[0] == reports[1]
    method = reports[0]["methods"]["a"]
    cells = method["attributes"]
    assert (cells["p"]["n"], cells["q"]["n"]) == (2, 1)
    assert (cells["p"]["accuracy"], cells["q"]["accuracy"]) == (0.5, 1.0)
    assert method["macro"]["accuracy"] == method["draws"]["macro"][0] == 0.75
    wins = 1 / (1 + np.exp(-np.array([1.0, -1, 2])))
    assert method["nll"] == pytest.approx(-np.log(wins).mean())
    assert method["ece"] == pytest.approx(expected_calibration_error(wins))


def test_every_draw_is_judged_on_its_own_rows(make_reward: Any, make_test_rows: Any) -> None:
    """The first draw scores rows 0 and 1, the second rows 1 and 2; ties count where they score."""
    test = make_test_rows([0, 0, 0], range(3), "p")
    mask_2xN = np.array([[True, True, False], [False, True, True]])
    scored = make_reward([[1.0, -1, 0], [0, 1, 1]], counts=mask_2xN)
    method = build_report("x", test, {"a": scored}, CONFIG, 0)["methods"]["a"]
    assert method["draws"]["macro"] == [0.5, 1.0]
    cell = method["attributes"]["p"]
    assert (cell["n"], cell["ties"]) == (3, 0)
    assert cell["accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
