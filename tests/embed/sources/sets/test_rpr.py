"""RPR row by row: two opposite pairs, the categories that are kept, twins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.sets import rpr

Read = Callable[..., Any]
ROW = {
    "prompt": "Why is the sea salty?",
    "response_a": "Rivers bring salt.",
    "response_b": "A mill grinds salt on its ground.",
    "criteria_x": "Be exact.",
    "criteria_y": "Tell a tale.",
    "category_x": "Scientific Rigor",
    "category_y": "Narrative & Storytelling Quality",
}
OUTSIDE = {"category_x": "Emotional Tone"}
CULTURAL = {"category_y": "Cultural Sensitivity"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_is_chosen_under_x_and_b_under_y(split: str, read_rows: Read) -> None:
    prompt = (Message("user", "Why is the sea salty?"),)
    exact, tale = "Rivers bring salt.", "A mill grinds salt on its ground."
    assert read_rows(rpr.SOURCE, {split: [ROW]}).pairs == [
        PreferencePair(
            prompt, exact, tale, split, "rpr", "rpr-scientific-rigor", "Be exact.", row=1
        ),
        PreferencePair(
            prompt,
            tale,
            exact,
            split,
            "rpr",
            "rpr-narrative-and-storytelling-quality",
            "Tell a tale.",
            row=1,
        ),
    ]


def test_a_pair_of_another_category_is_left_out_alone(read_rows: Read) -> None:
    found = read_rows(rpr.SOURCE, {"train": [ROW | OUTSIDE]})
    assert [pair.context for pair in found.pairs] == ["Tell a tale."]
    assert found.account.left_out == {"category rpr-emotional-tone is not one of the nine": 1}


def test_only_ten_keeps_cultural_sensitivity(read_rows: Read) -> None:
    ten = read_rows(rpr.SOURCE, {"train": [ROW | CULTURAL]}, variant="ten")
    assert [pair.attribute for pair in ten.pairs][1] == "rpr-cultural-sensitivity"
    nine = read_rows(rpr.SOURCE, {"train": [ROW | CULTURAL]})
    assert [pair.attribute for pair in nine.pairs] == ["rpr-scientific-rigor"]


def test_spaces_around_a_category_do_not_count() -> None:
    assert rpr.attribute_of(" Factual Accuracy ") == "rpr-factual-accuracy"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"criteria_y": " "}, "criteria_y"),
        ({"criteria_x": None}, "criteria_x"),
        ({"category_y": None}, "category_y"),
        ({"response_a": ""}, "response_a"),
        ({"response_b": ROW["response_a"]}, "response_b"),
    ],
)
def test_a_row_that_lacks_something_is_refused_and_not_left_out_too(
    change: dict[str, Any], field: str, read_rows: Read
) -> None:
    found = read_rows(rpr.SOURCE, {"train": [ROW | OUTSIDE | change]})
    assert not found.pairs and not found.account.left_out
    assert [refusal.field for refusal in found.account.refusals] == [field]


def test_twins_are_pairs_of_one_row_of_one_split(read_rows: Read) -> None:
    lone, whole = ROW | OUTSIDE, ROW | {"prompt": "Why is the sky blue?"}
    pairs = read_rows(rpr.SOURCE, {"train": [lone, whole], "test": [lone]}).pairs
    rows = Counter((pair.split, pair.row) for pair in pairs)
    assert rows == {("train", 1): 1, ("train", 2): 2, ("test", 1): 1}
