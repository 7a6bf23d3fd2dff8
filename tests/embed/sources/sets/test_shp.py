"""SHP row by row: the scores that count, the label, the subreddit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.sets import shp

Read = Callable[..., Any]
ROW = {
    "domain": "askbaking_train",
    "history": "Why is my loaf flat?",
    "score_A": 40,
    "score_B": 12,
    "human_ref_A": "It rose too long.",
    "human_ref_B": "Bad flour.",
    "labels": 1,
}


def test_label_one_chooses_a_and_zero_b(read_rows: Read) -> None:
    prompt = (Message("user", "Why is my loaf flat?"),)
    rose, flour = "It rose too long.", "Bad flour."
    rows = [ROW, ROW | {"labels": 0, "score_A": 12, "score_B": 40}]
    assert read_rows(shp.SOURCE, {"train": rows}).pairs == [
        PreferencePair(prompt, rose, flour, "train", "shp", "askbaking", margin=28, row=1),
        PreferencePair(prompt, flour, rose, "train", "shp", "askbaking", margin=28, row=2),
    ]


@pytest.mark.parametrize("column", ["score_A", "score_B"])
def test_both_scores_must_exceed_three(column: str, read_rows: Read) -> None:
    rows = [ROW | {column: score} for score in (-5, 3, 4)]
    found = read_rows(shp.SOURCE, {"train": rows})
    assert [pair.row for pair in found.pairs] == [3]
    assert found.account.left_out == {"a score is not above 3": 2}


@pytest.mark.parametrize(
    ("domain", "attribute"),
    [
        ("askbaking_test", "askbaking"),
        ("askbaking_validation", "askbaking"),
        ("askbaking", "askbaking"),
        ("ask_train_drivers_train", "ask_train_drivers"),
    ],
)
def test_the_subreddit_is_the_attribute_without_its_split(
    domain: str, attribute: str, read_rows: Read
) -> None:
    found = read_rows(shp.SOURCE, {"test": [ROW | {"domain": domain}]})
    assert [(pair.attribute, pair.split) for pair in found.pairs] == [(attribute, "test")]


@pytest.mark.parametrize(("variant", "row"), [("test", "Of test"), ("validation", "Held out")])
def test_a_variant_tests_on_its_own_split_alone(variant: str, row: str, read_rows: Read) -> None:
    rows = {
        "train": [ROW],
        "validation": [ROW | {"history": "Held out"}],
        "test": [ROW | {"history": "Of test"}],
    }
    found = read_rows(shp.SOURCE, rows, variant=variant)
    assert [(pair.prompt[0].content, pair.split) for pair in found.pairs] == [
        ("Why is my loaf flat?", "train"),
        (row, "test"),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": 2}, "labels"),
        ({"labels": None}, "labels"),
        ({"score_B": None}, "score_B"),
        ({"human_ref_B": ""}, "human_ref_B"),
        ({"human_ref_B": "It rose too long."}, "human_ref_A"),
        ({"history": ""}, "history"),
        ({"domain": ""}, "domain"),
        ({"domain": None}, "domain"),
    ],
)
def test_a_row_that_lacks_something_is_refused(
    change: dict[str, Any], field: str, read_rows: Read
) -> None:
    found = read_rows(shp.SOURCE, {"train": [ROW | change]})
    assert not found.pairs
    assert [refusal.field for refusal in found.account.refusals] == [field]


def test_it_is_streamed() -> None:
    assert shp.SOURCE.upstream.streaming
