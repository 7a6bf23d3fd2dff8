"""The sentences beside the table."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.heads.evaluation.verdict import verdict, warnings

NOTHING = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}


def report(*outcomes: tuple[str, str, str], n: int = 50) -> dict[str, Any]:
    """Comparisons as (method, against, standing); every accuracy is 0.5 or 0.7."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome[:2])
    return {
        "methods": {
            name: {
                "macro": {"accuracy": 0.5 if name == "single_bt" else 0.7},
                "attributes": {"brief": {"n": n}},
                "given": "prompt",
                "units": ["prompts"],
            }
            for name in names or ["single_bt"]
        },
        "comparisons": [
            {"method": name, "against": base, "standing": standing, "units": ["people"]}
            for name, base, standing in outcomes
        ],
    }


def test_methods_with_the_same_outcome_share_a_sentence() -> None:
    result = verdict(
        report(
            ("micro", "single_bt", "better"),
            ("pal", "single_bt", "noise"),
            ("vpl", "single_bt", "worse"),
            ("hyre", "single_bt", "better"),
        )
    )
    assert result == [
        "Better than single_bt (0.500) beyond noise: micro 0.700, hyre 0.700.",
        "No different from single_bt (0.500) beyond noise: pal 0.700.",
        "Worse than single_bt (0.500) beyond noise: vpl 0.700.",
    ]


def test_every_comparator_has_its_sentences() -> None:
    result = verdict(report(("micro", "static_mixture", "noise"), ("micro", "single_bt", "few")))
    assert result == [
        "No different from static_mixture (0.700) beyond noise: micro 0.700.",
        "Too few people to compare with single_bt (0.500): micro 0.700.",
    ]
    assert verdict(report()) == [], "one method alone"


def test_a_single_wording_is_warned_of_where_a_method_reads_it() -> None:
    content = report(("micro", "single_bt", "better"))
    assert warnings(content, NOTHING) == []
    content["methods"]["micro"]["given"] = "context"
    (found,) = warnings(content, NOTHING)
    assert "a single wording of its context" in found
    content["methods"]["micro"]["units"] = ["prompts", "wordings"]
    assert warnings(content, NOTHING) == []


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
