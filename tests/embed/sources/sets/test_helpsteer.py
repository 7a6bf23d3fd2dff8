"""HelpSteer and HelpSteer2: every two responses are compared, and the official cut of the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.sets import helpsteer2

Read = Callable[..., Any]


def rated(prompt: str, response: str, *ratings: Any) -> dict[str, Any]:
    scores = dict(zip(helpsteer2.ATTRIBUTES, ratings, strict=True))
    return {"prompt": prompt, "response": response, **scores}


def two(prompt: str, good: tuple[int, ...], bad: tuple[int, ...]) -> list[dict[str, Any]]:
    return [rated(prompt, "Good", *good), rated(prompt, "Bad", *bad)]


FOUR = [
    rated("Walk?", text, n, 4 - n, n, n, 2) for n, text in enumerate(("Go", "Up", "Hike", "Out"))
]


@pytest.mark.parametrize("name", ["helpsteer", "helpsteer2"])
@pytest.mark.parametrize(("part", "split"), [("train", "train"), ("validation", "test")])
def test_four_responses_make_six_comparisons_wherever_they_stand(
    name: str, part: str, split: str, read_rows: Read
) -> None:
    other = [row | {"prompt": "Swim?"} for row in FOUR[:2]]
    found = read_rows(name, {part: [FOUR[0], other[0], FOUR[1], other[1], *FOUR[2:]]})
    names = ("helpfulness", "correctness", "coherence", "complexity")
    assert Counter(pair.attribute for pair in found.pairs) == dict.fromkeys(names, 7)
    assert found.account.ties == {"verbosity": 7}
    assert {pair.split for pair in found.pairs} == {split}
    best = {(p.attribute, p.chosen, p.rejected) for p in found.pairs if p.margin == 3}
    assert {("helpfulness", "Out", "Go"), ("correctness", "Go", "Out")} < best


@pytest.mark.parametrize("rating", [None, 5, -1, 2.5, "3"])
def test_a_rating_that_is_none_of_the_scale_refuses_its_row(rating: Any, read_rows: Read) -> None:
    found = read_rows("helpsteer", {"train": [*FOUR, rated("Walk?", "Sit", 1, 1, rating, 1, 1)]})
    (refusal,) = found.account.refusals
    assert (refusal.row, refusal.field) == (5, "coherence")
    assert "rating from 0 to 4" in refusal.reason
    assert len(found.pairs) == 24


# HelpSteer2's official cut

BEST, WORST = (4,) * 5, (0,) * 5
# In alphabetical order: no verbosity, all agree, all agree, one disagrees, one is a tie.
TRAIN = [
    *two("A", (4, 4, 4, 4, 1), (0, 0, 0, 0, 1)),
    *two("B", BEST, WORST),
    *two("C", BEST, WORST),
    *two("D", (4, 4, 4, 4, 0), (0, 0, 0, 0, 4)),
    *two("E", (4, 4, 4, 4, 4), (0, 0, 0, 0, 4)),
]
ROWS = {"train": TRAIN, "validation": two("V", BEST, WORST)}


def kept(found: Any, split: str) -> set[tuple[str, str]]:
    return {(p.prompt[0].content, p.attribute) for p in found.pairs if p.split == split}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair per attribute goes from the training rows to the test rows: A, B for verbosity."""
    monkeypatch.setattr(helpsteer2, "OFFICIAL_TEST", 1)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("variant", ["official", "official_800"])
def test_unanimous_responses_do_not_move_the_official_test_rows(
    variant: str, read_rows: Read
) -> None:
    whole = read_rows("helpsteer2", ROWS, variant=variant)
    found = read_rows("helpsteer2", ROWS, variant=variant, drop_unanimous=True)
    assert kept(found, "test") == kept(whole, "test")
    assert ("B", "verbosity") in kept(found, "test")
    assert kept(whole, "train") - kept(found, "train") == {
        (prompt, attribute)
        for prompt in "BC"
        for attribute in helpsteer2.ATTRIBUTES
        if (prompt, attribute) != ("B", "verbosity")
    }
    assert (whole.account.unanimous, found.account.unanimous) == (0, 2)


def test_by_prompt_shares_no_prompt_and_its_test_rows_keep_unanimous_responses(
    read_rows: Read,
) -> None:
    whole = read_rows("helpsteer2", ROWS)
    found = read_rows("helpsteer2", ROWS, drop_unanimous=True)
    assert {prompt for prompt, _ in kept(whole, "train")} == set("ABCDE")
    assert {prompt for prompt, _ in kept(found, "train")} == {"A", "D", "E"}
    assert found.account.unanimous == 2
    for one in (whole, found):
        assert kept(one, "test") == {("V", attribute) for attribute in helpsteer2.ATTRIBUTES}


@pytest.mark.usefixtures("cut")
def test_the_official_cut_is_by_prompt_and_per_attribute(read_rows: Read) -> None:
    """Two responses train under one attribute and are tested under another."""
    rows = ROWS | {"train": TRAIN[::-1]}
    found, honest = read_rows("helpsteer2", rows, variant="official"), read_rows("helpsteer2", rows)
    moved = {item for item in kept(found, "test") if item[0] != "V"}
    assert moved == {("B", "verbosity")} | {("A", name) for name in helpsteer2.ATTRIBUTES[:4]}
    assert kept(found, "train") == kept(honest, "train") - moved


def test_five_hundred_rows_are_cut_and_eight_hundred_drawn_by_seed(read_rows: Read) -> None:
    wordy = {
        part: [row for n in range(prompts) for row in two(f"{part} {n}", BEST, (4, 4, 4, 4, 0))]
        for part, prompts in (("train", 501), ("validation", 301))
    }
    whole = read_rows("helpsteer2", wordy, variant="official")
    assert (len(kept(whole, "train")), len(kept(whole, "test"))) == (1, 801)
    draws = [read_rows("helpsteer2", wordy, variant="official_800", draw=n) for n in (0, 0, 1)]
    first, again, other = (kept(found, "test") for found in draws)
    assert first == again != other and len(first) == len(other) == 800
    assert first | other == kept(whole, "test")
    assert kept(draws[0], "train") == kept(whole, "train")
    assert draws[0].account.left_out == {"not among the 800 test rows of the draw": 1}
