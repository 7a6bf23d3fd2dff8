"""The sentences beside the table."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.heads.evaluation.verdict import standing, verdict, warnings

NOTHING = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}
BETTER, NOISE, WORSE = (0.2, 0.1, 0.3), (0.2, 0.0, 0.4), (-0.2, -0.3, -0.1)


def report(*outcomes: tuple[str, str, tuple[float, float, float]], n: int = 50) -> dict[str, Any]:
    """Comparisons as (method, against, (difference, low, high)); every accuracy is 0.5 or 0.7."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome[:2])
    return {
        "methods": {
            name: {
                "macro": {"accuracy": 0.5 if name == "single_bt" else 0.7},
                "attributes": {"brief": {"n": n}},
                "given": "prompt" if name in ("single_bt", "dpl") else "group",
                "wordings": {"count": 8, "low": 0.1, "high": 0.9},
            }
            for name in names or ["single_bt"]
        },
        "comparisons": [
            {"method": name, "against": base, "difference": value, "low": low, "high": high}
            for name, base, (value, low, high) in outcomes
        ],
    }


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 0.3, "better"), (-0.3, -0.001, "worse"), (0.0, 0.3, "noise"), (-0.3, 0.0, "noise")],
)
def test_a_difference_counts_only_if_its_interval_leaves_zero_out(
    low: float, high: float, expected: str
) -> None:
    assert standing({"low": low, "high": high}) == expected


def test_methods_with_the_same_outcome_share_a_sentence() -> None:
    result = verdict(
        report(
            ("micro", "single_bt", BETTER),
            ("pal", "single_bt", NOISE),
            ("vpl", "single_bt", WORSE),
            ("hyre", "single_bt", BETTER),
        )
    )
    assert result == [
        "Better than single_bt (0.500) beyond noise: micro 0.700, hyre 0.700.",
        "No different from single_bt (0.500) beyond noise: pal 0.700.",
        "Worse than single_bt (0.500) beyond noise: vpl 0.700.",
    ]


def test_single_heads_stay_in_the_table() -> None:
    names = ("micro_best_head_oracle", "micro_best_head_validated")
    assert verdict(report(*((name, "single_bt", BETTER) for name in names))) == []
    assert verdict(report()) == [], "one method alone"


def test_what_is_told_nothing_is_not_held_against_what_is_told_the_wish() -> None:
    result = verdict(
        report(("dpl", "single_bt", NOISE), ("dpl", "micro", WORSE), ("pal", "micro", BETTER))
    )
    assert result == [
        "No different from single_bt (0.500) beyond noise: dpl 0.700.",
        "Better than micro (0.700) beyond noise: pal 0.700.",
    ]


def test_methods_that_read_the_wish_say_how_far_they_hang_on_its_words() -> None:
    """And no others: a single reward may look worse under some wordings by chance alone."""
    content = report(("micro", "single_bt", BETTER), ("micro_kernel", "single_bt", BETTER))
    assert not any("wordings" in sentence for sentence in verdict(content))
    for name in ("micro", "micro_kernel"):
        content["methods"][name]["given"] = "context"
    last = verdict(content)[-1]
    assert last == (
        "With other wordings than the 8 of the test: micro 0.100-0.900, micro_kernel 0.100-0.900."
    )
    content["methods"]["micro"]["wordings"] = None
    assert "micro 0" not in verdict(content)[-1]
    content["methods"]["micro_kernel"]["wordings"] = None
    assert len(verdict(content)) == 1


@pytest.mark.parametrize(
    ("n", "key", "expected"),
    [
        (30, None, []),
        (29, None, ["Fewer than 30 test rows for brief: wide intervals."]),
        (30, "refused", ["7 rows or pairs of the data were refused"]),
        (30, "shortened_sequences", ["7 sequences were longer than the backbone's limit"]),
        (30, "prompt_overlap", ["7 prompts are in both train and test: the scores are too good"]),
    ],
)
def test_few_rows_and_what_the_data_account_counts_are_warnings(
    n: int, key: str | None, expected: list[str]
) -> None:
    found = warnings(report(n=n), NOTHING | ({key: 7} if key else {}))
    assert len(found) == len(expected)
    assert all(words in text for words, text in zip(expected, found, strict=True))
