"""HelpSteer row by row: every two of its up to four responses are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.sets import helpsteer

Read = Callable[..., Any]


def rated(response: str, *ratings: Any) -> dict[str, Any]:
    scores = dict(zip(helpsteer.ATTRIBUTES, ratings, strict=True))
    return {"prompt": "Plan a walk.", "response": response, **scores}


FOUR = [rated(text, n, 4 - n, n, n, 2) for n, text in enumerate(("Go", "Walk", "Hike", "Stroll"))]


@pytest.mark.parametrize(("part", "split"), [("train", "train"), ("validation", "test")])
def test_four_responses_make_six_comparisons(part: str, split: str, read_rows: Read) -> None:
    found = read_rows(helpsteer.SOURCE, {part: FOUR})
    assert Counter(pair.attribute for pair in found.pairs) == dict.fromkeys(
        ("helpfulness", "correctness", "coherence", "complexity"), 6
    )
    assert found.account.ties == {"verbosity": 6}
    assert {pair.split for pair in found.pairs} == {split}
    best = {(p.attribute, p.chosen, p.rejected, p.margin) for p in found.pairs if p.margin == 3}
    assert ("helpfulness", "Stroll", "Go", 3) in best
    assert ("correctness", "Go", "Stroll", 3) in best


def test_responses_of_a_prompt_need_not_be_neighbours(read_rows: Read) -> None:
    other = [row | {"prompt": "Plan a swim."} for row in FOUR[:2]]
    rows = [FOUR[0], other[0], FOUR[1], other[1]]
    assert len(read_rows(helpsteer.SOURCE, {"train": rows}).pairs) == 8


@pytest.mark.parametrize("rating", [None, 5, -1, 2.5, "3"])
def test_a_rating_that_is_none_of_the_scale_refuses_its_row(rating: Any, read_rows: Read) -> None:
    rows = [*FOUR, rated("Sit", 1, 1, rating, 1, 1)]
    found = read_rows(helpsteer.SOURCE, {"train": rows})
    (refusal,) = found.account.refusals
    assert (refusal.row, refusal.field) == (5, "coherence")
    assert "rating from 0 to 4" in refusal.reason
    assert len(found.pairs) == 24


def test_two_responses_of_the_same_text_are_refused(read_rows: Read) -> None:
    found = read_rows(helpsteer.SOURCE, {"train": [FOUR[0], FOUR[3] | {"response": "Go"}]})
    (refusal,) = found.account.refusals
    assert not found.pairs and refusal.row == 2 and "same text" in refusal.reason


def test_every_attribute_has_a_context(load: Read) -> None:
    contexts = {pair.attribute: pair.context for pair in load("helpsteer").pairs}
    assert set(contexts) == set(helpsteer.ATTRIBUTES) and all(contexts.values())
