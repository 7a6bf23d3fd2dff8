"""The numbers of report.json from test rows with known answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation.comparisons import family
from micro_rm.heads.evaluation.metrics import expected_calibration_error
from micro_rm.heads.evaluation.report import (
    ORACLE,
    VALIDATED,
    best_head_summary,
    build_report,
    with_best_heads,
)

CONFIG = EvaluateConfig()


def built(test: Any, given: str = "prompt", **scored: Any) -> dict[str, Any]:
    """The report of scored methods, each under one seed or a list of them."""
    seeds = {name: one if isinstance(one, list) else [one] for name, one in scored.items()}
    return build_report("x", test, seeds, dict.fromkeys(scored, given), CONFIG)


def method_of(test: Any, scored: Any) -> dict[str, Any]:
    return built(test, a=scored)["methods"]["a"]


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
    """Seven right rows and two ties of one attribute, a wrong row of another."""
    test = make_test_rows([0] * 9 + [1], range(10), "many", "few")
    method = method_of(test, make_scored(np.array([[1.0]] * 7 + [[0.0]] * 2 + [[-1.0]])))
    assert method["macro"]["accuracy"] == pytest.approx(4 / 9)
    assert method["draws"] == {"count": 1, "std": 0.0, "macro": [pytest.approx(4 / 9)]}
    cells = [method["attributes"][name] for name in ("many", "few")]
    assert [cell["accuracy"] for cell in cells] == [pytest.approx(8 / 9), 0.0]
    assert [(cell["n"], cell["ties"]) for cell in cells] == [(9, 2), (1, 0)]


def test_the_order_of_attributes_changes_no_number(make_scored: Any, make_test_rows: Any) -> None:
    rng = np.random.default_rng(1)
    attribute_N, prompt_N = rng.integers(0, 2, 40), np.arange(40) // 2
    scored = make_scored(rng.normal(size=(40, 3)))
    one = built(make_test_rows(attribute_N, prompt_N, "p", "q"), a=scored)
    assert one == built(make_test_rows(1 - attribute_N, prompt_N, "q", "p"), a=scored)


def test_draws_are_averaged_and_their_spread_is_reported(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Two heads, two rows; the first draw believes the right head, the second the wrong one once.

    The spread is the deviation of the macro accuracies 1 and 1/2.
    """
    test = make_test_rows([0, 1], [0, 1], "p", "q")
    with np.errstate(divide="ignore"):
        log_weights_SxNxK = np.log([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    scored = make_scored(np.array([[2.0, -2.0], [2.0, -2.0]]), log_weights_SxNxK)
    report = built(test, a=scored)
    method = report["methods"]["a"]
    assert method["macro"]["accuracy"] == 0.75
    assert method["draws"] == {"count": 2, "std": 0.125**0.5, "macro": [1.0, 0.5]}
    assert report["heads"]["a"]["usage"] == [0.75, 0.25]
    assert report["heads"]["a"]["weights"] == {"p": [1.0, 0.0], "q": [0.5, 0.5]}
    assert method["nll"] == pytest.approx(np.log1p(np.exp(-2)) + 2 / 4)


# --- intervals and comparisons --------------------------------------------------------------------


def test_intervals_surround_their_value_and_shrink_with_more_prompts(
    make_scored: Any, make_test_rows: Any
) -> None:
    widths = []
    for prompts in (30, 300):
        delta_Nx1 = np.where(np.arange(2 * prompts) % 3 > 0, 1.0, -1.0)[:, None]
        test = make_test_rows(np.tile([0, 1], prompts), np.repeat(range(prompts), 2), "p", "q")
        method = method_of(test, make_scored(delta_Nx1))
        for cell in (method["macro"], *method["attributes"].values()):
            assert cell["low"] < cell["accuracy"] < cell["high"]
        widths.append(method["macro"]["high"] - method["macro"]["low"])
    assert widths[1] < widths[0] / 2


def test_repeating_every_row_of_a_prompt_leaves_every_interval(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Rows of a prompt are sampled together; the count is of rows all the same."""
    delta_Nx1 = np.where(np.arange(40) % 3 > 0, 1.0, -1.0)[:, None]
    attribute, prompt = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    once, repeated = (
        method_of(
            make_test_rows(np.tile(attribute, times), np.tile(prompt, times), "p", "q"),
            make_scored(np.tile(delta_Nx1, (times, 1))),
        )
        for times in (1, 5)
    )
    assert repeated["macro"] == pytest.approx(once["macro"])
    assert [method["attributes"]["p"]["n"] for method in (once, repeated)] == [20, 100]


def test_a_method_compared_with_itself_differs_by_exactly_nothing(
    make_scored: Any, make_test_rows: Any
) -> None:
    rng = np.random.default_rng(4)
    scored = make_scored(rng.normal(size=(40, 1)))
    test = make_test_rows(np.arange(40) % 2, np.arange(40), "p", "q")
    (comparison,) = built(test, a=scored, b=scored)["comparisons"]
    assert (comparison["method"], comparison["against"]) == ("b", "a")
    assert [comparison[key] for key in ("difference", "low", "high")] == [0, 0, 0]
    assert comparison["p_adjusted"] == 1.0 and comparison["standing"] == "noise"


def compared(scored: dict[str, Any], test: Any) -> list[tuple[str, str, float]]:
    comparisons = built(test, **scored)["comparisons"]
    return [(item["method"], item["against"], item["difference"]) for item in comparisons]


def test_every_method_is_compared_with_one_comparator_and_micro_with_the_mixture(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Nothing with itself, no best head, whatever the order."""
    test = make_test_rows([0, 0], [0, 1], "p")
    worth = {"pal": -1.0, "micro": 1.0, "single_bt": 0.0, "static_mixture": 1.0}
    scored = {name: make_scored(np.full((2, 1), delta)) for name, delta in worth.items()}
    scored["micro" + ORACLE] = scored["micro"]
    assert compared(scored, test) == [
        ("pal", "single_bt", -0.5),
        ("micro", "single_bt", 0.5),
        ("static_mixture", "single_bt", 0.5),
        ("micro", "static_mixture", 0.0),
    ]
    # Without the comparator the first method is the one.
    assert compared({"w": scored["pal"], "r": scored["micro"]}, test) == [("r", "w", 1.0)]
    assert compared({"w": scored["pal"]}, test) == []


def test_seeds_are_averaged_and_widen_the_interval(make_reward: Any, make_test_rows: Any) -> None:
    """Two seeds agree on every row; then one of them is right on every row."""
    test = make_test_rows([0] * 40, range(40), "p")
    delta_1xN = np.where(np.arange(40) % 4 > 0, 1.0, -1.0)[None]
    one, same, other = make_reward(delta_1xN), make_reward(delta_1xN), make_reward(abs(delta_1xN))
    alone, twice, apart = (method_of(test, seeds) for seeds in ([one], [one, same], [one, other]))
    assert alone["macro"] == pytest.approx(twice["macro"])
    assert twice["seeds"] == {"count": 2, "std": 0.0, "macro": [0.75, 0.75]}
    assert apart["macro"]["accuracy"] == 0.875 and apart["seeds"]["macro"] == [0.75, 1.0]
    widths = [method["macro"]["high"] - method["macro"]["low"] for method in (twice, apart)]
    assert widths[1] > 1.5 * widths[0]


def test_wordings_are_sampled_where_a_method_reads_them_and_there_are_several(
    make_reward: Any, make_test_rows: Any
) -> None:
    """One of eight wordings is misread: many prompts cannot show how much hangs on that."""
    wording_N = np.tile(np.arange(8), 50)
    scored, attribute_N = make_reward(np.where(wording_N == 0, -1.0, 1.0)[None]), wording_N // 4

    def method(wording_N: Any, given: str = "context") -> dict[str, Any]:
        test = make_test_rows(attribute_N, np.arange(400), "p", "q", wording=wording_N)
        return built(test, given, a=scored)["methods"]["a"]

    result, blind = method(wording_N), method(wording_N, "prompt")
    assert result["units"] == ["prompts", "wordings"] and blind["units"] == ["prompts"]
    assert result["macro"]["low"] < blind["macro"]["low"] < 0.875 == blind["macro"]["accuracy"]
    for others in (None, attribute_N):  # no contexts; one wording of each
        assert method(others)["macro"] == blind["macro"]


def test_a_difference_samples_wordings_if_either_method_reads_them(make_test_rows: Any) -> None:
    wording_N = np.tile(np.arange(8), 50)
    test = make_test_rows(wording_N // 4, np.arange(400), "p", "q", wording=wording_N)
    reads = (wording_N != 0).astype(float)[None, None]
    correct = {"reads": reads, "plain": np.full_like(reads, 0.5)}

    def width(pair: tuple[str, str], **given: str) -> float:
        (item,) = family([pair], correct, test, given, 0.95)
        return item["high"] - item["low"]

    blind = width(("reads", "plain"), reads="prompt", plain="prompt")
    for pair in (("reads", "plain"), ("plain", "reads")):
        assert width(pair, reads="context", plain="prompt") > 1.5 * blind


def test_people_are_sampled_where_the_rows_name_them(make_reward: Any, make_test_rows: Any) -> None:
    """Ten people with ten prompts each: half of them are always right, half of them never."""
    person_N = np.repeat(np.arange(10), 10)
    scored = make_reward(np.where(person_N % 2, 1.0, -1.0)[None])
    test = make_test_rows(np.zeros(100, int), np.arange(100), "p")
    prompts, people = (method_of(one, scored) for one in (test, replace(test, user_N=person_N)))
    assert (prompts["units"], people["units"]) == (["prompts"], ["people", "prompts"])
    widths = [method["macro"]["high"] - method["macro"]["low"] for method in (prompts, people)]
    assert widths[1] > 2.5 * widths[0]


def test_too_few_units_are_said_to_be_too_few(make_reward: Any, make_test_rows: Any) -> None:
    test = make_test_rows(np.arange(50) % 2, np.arange(50), "p", "q", wording=np.arange(50) % 4)
    right, wrong = make_reward(np.ones((1, 50))), make_reward(-np.ones((1, 50)))
    report = built(test, "context", single_bt=wrong, micro=right)
    (comparison,) = report["comparisons"]
    assert comparison["units"] == ["prompts", "wordings"]
    assert comparison["few"] and comparison["standing"] == "few"  # four wordings
    (comparison,) = built(test, single_bt=wrong, micro=right)["comparisons"]
    assert comparison["standing"] == "better"
    single = make_test_rows([0, 1], [0, 1], "p", "q")
    method = method_of(single, make_reward(np.ones((1, 2))))
    assert method["macro"]["few"] and (method["macro"]["low"], method["macro"]["high"]) == (0, 1)


# --- heads ----------------------------------------------------------------------------------------


def test_heads_are_named_after_what_they_are_best_at_or_called_unspecific(
    make_scored: Any, make_test_rows: Any
) -> None:
    sign_N = np.tile([1.0, -1.0], 10)
    delta_NxK = np.stack([sign_N, -sign_N, np.repeat([1.0, -1.0], 10)], axis=1)
    test = make_test_rows(np.tile([0, 1], 10), np.arange(20), "brief", "polite")
    heads = built(test, a=make_scored(delta_NxK))["heads"]["a"]
    assert heads["names"] == ["brief", "polite", "unspecific"]
    assert heads["accuracy"] == {"brief": [1.0, 0.0, 0.5], "polite": [0.0, 1.0, 0.5]}


# --- best single heads ----------------------------------------------------------------------------


def test_the_validated_head_is_chosen_elsewhere_and_scored_here(
    make_scored: Any, make_test_rows: Any
) -> None:
    """Validation prefers head 1 for p and head 0 for q; the test rows agree for q only."""
    test = make_test_rows([0, 1], [0, 1], "p", "q")
    validation = {"a": [np.array([[0.4, 0.6], [0.6, 0.4]])]}
    scored = {"a": [make_scored(np.array([[1.0, -1.0], [1.0, -1.0]]))]}
    report = built(test, **with_best_heads(scored, ["a"], test, validation))
    assert list(report["methods"]) == ["a", "a" + VALIDATED, "a" + ORACLE]
    _, validated, oracle = report["methods"].values()
    assert (validated["macro"]["accuracy"], oracle["macro"]["accuracy"]) == (0.5, 1.0)
    assert [cell["accuracy"] for cell in validated["attributes"].values()] == [0.0, 1.0]
    assert list(report["heads"]) == ["a"]


def test_only_owners_of_several_heads_have_a_best_one(
    make_scored: Any, make_reward: Any, make_test_rows: Any
) -> None:
    """Not a router over the heads of another method, nor a single head, nor none at all."""
    test = make_test_rows([0, 0], [0, 1], "p")
    two, one = np.ones((2, 2)), np.ones((2, 1))
    scored = {
        "own": [make_scored(two)],
        "routed": [make_scored(two)],
        "one": [make_scored(one)],
        "none": [make_reward(one.T)],
    }
    result = with_best_heads(scored, ["own", "one", "none"], test, {"one": [np.ones((1, 1))]})
    assert set(result) == {*scored, "own" + ORACLE}
    assert all(result[name] == scored[name] for name in scored)


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
    method, other = (
        method_of(test, make_reward(delta_1xN, counts=mask_1xN))
        for delta_1xN in ([[1.0, -1, 9, 2, 9]], [[1.0, -1, -9, 2, -9]])
    )
    assert method == other
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
    method = method_of(test, scored)
    assert method["draws"]["macro"] == [0.5, 1.0]
    cell = method["attributes"]["p"]
    assert (cell["n"], cell["ties"]) == (3, 0)
    assert cell["accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
