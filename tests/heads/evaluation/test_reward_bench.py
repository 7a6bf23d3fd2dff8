"""RewardBench in its own units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation import protocol
from micro_rm.heads.evaluation.protocol import ScoredMethod
from micro_rm.heads.evaluation.reward_bench import (
    OFFICIAL_WEIGHT,
    SECTIONS,
    SUBSETS_V2,
    benchmark,
    best_of_n,
    left_out_warnings,
    missing_subset_warnings,
    official_scores,
)

CONFIG = EvaluateConfig()
SUBSETS = [name for section in SECTIONS.values() for name in section]


def scored(correct_SxN: Any) -> ScoredMethod:
    correct = np.atleast_2d(np.array(correct_SxN, float))
    everywhere = np.ones(correct.shape, bool)
    return ScoredMethod(
        "R2", correct, correct == 0.5, np.log(np.full(correct.shape, 0.5)), everywhere, None
    )


def benchmark_of(test: protocol.TestSet, rows_N: np.ndarray, result: ScoredMethod) -> Any:
    report = benchmark(test, rows_N, {"m": [result]}, CONFIG)
    assert report is not None
    return report


def whole_benchmark() -> tuple[protocol.TestSet, np.ndarray]:
    """All 2,985 rows, their subsets in order."""
    sizes = [rows for section in SECTIONS.values() for rows in section.values()]
    attribute_N = np.repeat(np.arange(len(SUBSETS)), sizes)
    rows_N = np.arange(attribute_N.size)
    return protocol.TestSet(rows_N, attribute_N, rows_N, tuple(SUBSETS), rows_N.size), rows_N


def test_sections_weigh_what_the_leaderboard_says() -> None:
    weights = [
        sum(OFFICIAL_WEIGHT.get(name, rows) for name, rows in section.items())
        for section in SECTIONS.values()
    ]
    assert weights == [358, 456, 740, 1968]
    assert sum(SECTIONS["Reasoning"].values()) == 1431
    assert len(SUBSETS) == 23 and sum(map(sum, (s.values() for s in SECTIONS.values()))) == 2985


def test_pooled_sections_reproduce_the_papers_row() -> None:
    """347/358, 316/456, 676/740 and 1315/1431 average 0.8737 (Table 9)."""
    test, rows_N = whole_benchmark()
    correct_N = np.zeros(rows_N.size)
    start = 0
    for right, section in zip((347, 316, 676, 1315), SECTIONS.values(), strict=True):
        correct_N[start : start + right] = 1
        start += sum(section.values())
    report = benchmark_of(test, rows_N, scored(correct_N))
    cells = report["methods"]["m"]["attributes"]
    accuracies = [round(cell["accuracy"], 4) for cell in cells.values()]
    assert accuracies == [0.9693, 0.6930, 0.9135, 0.9189]
    assert [cell["n"] for cell in cells.values()] == [358, 456, 740, 1431]
    assert report["methods"]["m"]["macro"]["accuracy"] == pytest.approx(0.8737, abs=5e-5)


def test_the_official_score_counts_math_twice_and_a_bit() -> None:
    scores = official_scores(dict.fromkeys(SUBSETS, 1.0) | {"math-prm": 0.0})
    assert scores["Reasoning"] == pytest.approx(984 / 1968)
    assert scores["total"] == pytest.approx((3 + 0.5) / 4)


def test_a_tie_is_one_half_pooled_and_nothing_officially() -> None:
    test, rows_N = whole_benchmark()
    correct_N = np.ones(rows_N.size)
    correct_N[:100] = 0.5  # alpacaeval-easy
    report = benchmark_of(test, rows_N, scored(correct_N))
    pooled, official = report["methods"]["m"]["attributes"]["Chat"], report["official"]["m"]
    assert pooled["accuracy"] == pytest.approx(308 / 358)
    assert official["Chat"] == pytest.approx(258 / 358)


def test_official_scores_average_the_draws_that_score_a_row() -> None:
    test, rows_N = whole_benchmark()
    correct_SxN = np.stack([np.zeros(rows_N.size), np.ones(rows_N.size)])
    result = scored(correct_SxN)
    result.counts_SxN[0, :100] = False  # alpacaeval-easy was adapted to by the draw that errs
    result.counts_SxN[:, 100:110] = False  # some of alpacaeval-length by both
    report = benchmark_of(test, rows_N, result)
    assert report["official"]["m"]["Chat"] == pytest.approx((100 + 258 / 2) / 358)
    assert report["official"]["m"]["Safety"] == 0.5


def test_other_test_rows_are_no_benchmark() -> None:
    test = protocol.TestSet(np.arange(2), np.zeros(2, int), np.arange(2), ("verbosity",), 2)
    assert benchmark(test, np.arange(2), {"m": [scored([1, 0])]}, CONFIG) is None


def test_a_row_is_right_if_its_answer_beats_every_wrong_one() -> None:
    """A shared best score is shared credit."""
    rows_N = np.array([7, 7, 7, 2, 2, 2, 5, 5, 5])
    draws = [[1, 1, 1, 1, 0, 1, 1, 0.5, 0.5], [1, 1, 0, 1, 1, 1, 0.5, 0.5, 0.5]]
    credit_SxM = best_of_n(scored(draws), rows_N)
    np.testing.assert_allclose(credit_SxM, [[0, 1 / 3, 1], [1, 1 / 4, 0]])


def test_a_row_that_a_draw_has_adapted_to_does_not_count_in_it() -> None:
    result = scored([[1, 1, 1, 1], [1, 0, 1, 1]])
    counts_SxN = np.array([[False, True, True, False], [True, True, True, False]])
    result = replace(result, counts_SxN=counts_SxN)
    credit_SxM = best_of_n(result, np.array([1, 1, 2, 3]))
    np.testing.assert_array_equal(credit_SxM, [[np.nan, 1, np.nan], [0, 1, np.nan]])


def test_the_second_benchmark_scores_rows_and_not_pairs() -> None:
    subset_of_row = np.arange(12) % 6
    source_row_N = np.repeat(np.arange(12), 3)
    attribute_N = subset_of_row[source_row_N]
    test = protocol.TestSet(np.arange(36), attribute_N, source_row_N, SUBSETS_V2, 12)
    correct_N = np.ones(36)
    correct_N[0] = 0  # one pair of row 0, Factuality
    report = benchmark_of(test, source_row_N, scored(correct_N))
    assert report["name"] == "RewardBench 2"
    cells = report["methods"]["m"]["attributes"]
    assert cells["Factuality"]["accuracy"] == 0.5 and cells["Factuality"]["n"] == 2
    assert cells["Math"]["accuracy"] == 1.0
    assert report["methods"]["m"]["macro"]["accuracy"] == pytest.approx(5.5 / 6)


def test_a_method_that_adapted_to_every_row_of_a_subset_is_left_out() -> None:
    """One pair of both rows of Focus is labelled in the second draw."""
    source_row_N = np.repeat(np.arange(12), 3)
    test = protocol.TestSet(np.arange(36), source_row_N % 6, source_row_N, SUBSETS_V2, 12)
    plain, adapted = (scored(np.ones((2, 36))) for _ in range(2))
    adapted.counts_SxN[1, [3 * 4, 3 * 10 + 1]] = False
    report = benchmark(test, source_row_N, {"plain": [plain], "adapted": [adapted]}, CONFIG)
    assert report is not None and list(report["methods"]) == ["plain"]
    (sentence,) = left_out_warnings(report)
    assert sentence.startswith("RewardBench 2 leaves out adapted: every row of Focus has a pair")
    adapted.counts_SxN[1, 3 * 10 + 1] = True
    assert left_out_warnings(benchmark(test, source_row_N, {"m": [adapted]}, CONFIG)) == []
    assert left_out_warnings(None) == []


def test_rows_of_one_prompt_are_sampled_together() -> None:
    """Rows 0 to 3 share a prompt and are right, the others share one and are wrong."""
    source_row_N = np.repeat(np.arange(12), 3)
    right_N = source_row_N < 4
    prompt_N = np.where(right_N, 0, 1)
    test = protocol.TestSet(np.arange(36), source_row_N % 6, prompt_N, SUBSETS_V2, 2)
    macro = benchmark_of(test, source_row_N, scored(right_N))["methods"]["m"]["macro"]
    assert macro["low"] < 0.01 and macro["high"] > 0.99


def test_a_part_of_the_benchmark_has_no_sections_and_says_what_is_missing() -> None:
    assert missing_subset_warnings(SUBSETS) == []
    assert missing_subset_warnings(["verbosity", "Safety"]) == []
    part = [name for name in SUBSETS if name not in ("hep-go", "math-prm")]
    (sentence,) = missing_subset_warnings(part)
    assert sentence == "RewardBench has no sections: math-prm, hep-go have no test rows."
