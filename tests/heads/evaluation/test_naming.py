"""Heads are named after what they do beyond noise."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.heads.evaluation.naming import profile, profiles


@pytest.mark.parametrize(
    ("accuracy", "title"),
    [
        ({"formal": 0.9, "story": 0.5, "steps": 0.5}, "formal"),
        ({"formal": 1.0, "story": 0.75, "steps": 0.25}, "formal + story, not steps"),  # just so
        ({"formal": 0.9, "story": 0.65, "steps": 0.3}, "formal"),  # half as clear, and a weak no
        ({"formal": 0.1, "story": 0.5, "steps": 0.5}, "not formal"),
        ({"formal": 0.55, "story": 0.45, "steps": 0.5}, "no clear taste"),  # noise over 64 rows
        ({"formal": float("nan"), "story": 0.8, "steps": 0.5}, "story"),
    ],
)
def test_a_title_says_what_a_head_serves_and_opposes(
    accuracy: dict[str, float], title: str
) -> None:
    assert profile(accuracy, dict.fromkeys(accuracy, 64))["title"] == title


def test_what_is_noise_over_few_rows_is_a_taste_over_many() -> None:
    few, many = (profile({"a": 0.6, "b": 0.4}, {"a": n, "b": n}) for n in (20, 2000))
    assert few["serves"] == few["opposes"] == []
    assert (many["serves"], many["opposes"]) == (["a"], ["b"])


def test_the_clearest_comes_first() -> None:
    result = profile({"a": 0.7, "b": 0.9, "c": 0.2, "d": 0.1}, dict.fromkeys("abcd", 100))
    assert (result["serves"], result["opposes"]) == (["b", "a"], ["d", "c"])


def test_every_head_of_a_method_has_a_profile(make_report: Any) -> None:
    report = make_report()
    result = profiles(report["heads"]["micro"], {"brief": 40, "polite": 40})
    assert [item["title"] for item in result] == ["brief, not polite", "polite, not brief"]
