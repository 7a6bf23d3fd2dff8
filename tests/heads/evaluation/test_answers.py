"""The questions of a report, answered from its paired differences."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.heads.evaluation.answers import answers


def by_question(report: Any) -> list[tuple[str, str]]:
    return [(item["standing"], item["answer"]) for item in answers(report)]


def with_difference(report: Any, method: str, base: str, value: float, standing: str) -> Any:
    """Replace a comparison, which may be the other way round in the report."""
    (item,) = [i for i in report["comparisons"] if {i["method"], i["against"]} == {method, base}]
    item |= {"method": method, "against": base, "difference": value, "standing": standing}
    item |= {"low": value - 0.1, "high": value + 0.1, "p_adjusted": 0.0123}
    return item


@pytest.mark.parametrize(
    ("value", "standing", "answer"),
    [
        (0.03, "better", "Yes, by 3.0 points"),
        (-0.03, "worse", "No, it costs 3.0 points"),
        (0.03, "noise", "No difference beyond noise"),
        (0.03, "few", "Too few prompts to say"),
    ],
)
def test_noise_is_taken_seriously(
    make_report: Any, value: float, standing: str, answer: str
) -> None:
    report = make_report()
    with_difference(report, "static_mixture", "single_bt", value, standing)
    assert by_question(report)[0] == (standing, answer)


def test_a_difference_that_is_reported_the_other_way_round_is_turned(make_report: Any) -> None:
    """The report has static_mixture against micro; the question is what routing adds to it."""
    report = make_report()
    item = with_difference(report, "static_mixture", "micro", -0.2, "worse")
    item["units"] = ["prompts", "wordings"]
    result = answers(report)[2]
    assert (result["standing"], result["answer"]) == ("better", "Yes, by 20.0 points")
    assert "+0.200, 95% interval +0.100 to +0.300, adjusted p 0.012." in result["detail"]
    item["units"] = ["prompts"]  # one wording of each: others may undo it
    assert answers(report)[2]["answer"].endswith("of others the test says nothing")


def test_what_was_not_run_is_not_measured(make_report: Any) -> None:
    report = make_report()
    assert by_question(report)[1] == ("unknown", "Not measured")  # no micro_stage1 in the fixture
    assert by_question(report)[3] == ("unknown", "Not measured")  # no oracle
    report["methods"] = {"length_only": report["methods"]["length_only"]}
    report["comparisons"] = []
    assert {standing for standing, _ in by_question(report)} == {"unknown"}


def test_the_headroom_is_the_oracle_s_lead_over_the_best_method(make_report: Any) -> None:
    report = make_report()
    micro = report["methods"]["micro"]
    oracle = {**micro, "macro": {**micro["macro"], "accuracy": micro["macro"]["accuracy"] + 0.04}}
    report["methods"]["micro_best_head_oracle"] = oracle
    assert by_question(report)[3] == ("noise", "4.0 points to the oracle")


def test_another_method_that_reads_the_context_better_is_named(make_report: Any) -> None:
    report = make_report()
    micro = report["methods"]["micro"]
    report["methods"]["micro_kernel"] = {**micro, "macro": {**micro["macro"], "accuracy": 0.999}}
    assert "micro_kernel reads the context too and has 0.999" in answers(report)[2]["detail"]
