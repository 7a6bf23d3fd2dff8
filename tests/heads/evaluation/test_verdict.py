"""The sentences beside the table."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.heads.evaluation.verdict import verdict, warnings

NOTHING = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}


def report(difference: float, low: float, high: float, n: int = 50) -> dict[str, Any]:
    cell = {"n": n}
    return {
        "methods": {
            "single_bt": {"macro": {"accuracy": 0.5}, "attributes": {"brief": cell}},
            "micro": {"macro": {"accuracy": 0.5 + difference}, "attributes": {"brief": cell}},
        },
        "comparisons": [
            {"method": "micro", "against": base, "difference": difference, "low": low, "high": high}
            for base in ("single_bt", "static_mixture")
        ],
    }


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (
            (0.2, 0.1, 0.3),
            "micro reaches 0.700 and is better than single_bt by 0.200 (+0.100 to +0.300).",
        ),
        (
            (-0.2, -0.3, -0.1),
            "micro reaches 0.300 and is worse than single_bt by 0.200 (-0.300 to -0.100).",
        ),
        (
            (0.2, 0.0, 0.4),
            "micro reaches 0.700 and differs from single_bt by no more than noise: "
            "+0.200 (+0.000 to +0.400).",
        ),
    ],
)
def test_a_difference_counts_only_if_its_interval_leaves_zero_out(
    numbers: tuple[float, float, float], sentence: str
) -> None:
    """One sentence per method: comparisons with others than the first method stay in the table."""
    assert verdict(report(*numbers)) == [sentence]


def test_a_clean_data_set_needs_no_warning() -> None:
    assert warnings(report(0, 0, 0, n=30), NOTHING) == []


def test_few_test_rows_are_a_warning_that_names_the_attribute() -> None:
    assert warnings(report(0, 0, 0, n=29), NOTHING) == [
        "Fewer than 30 test rows for brief: wide intervals."
    ]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("refused", "7 rows or pairs of the data were refused"),
        ("shortened_sequences", "7 sequences were longer than the backbone's limit"),
        ("prompt_overlap", "7 prompts are in both train and test: the scores are too good"),
    ],
)
def test_what_the_data_account_counts_is_a_warning(key: str, words: str) -> None:
    (warning,) = warnings(report(0, 0, 0), {**NOTHING, key: 7})
    assert words in warning
