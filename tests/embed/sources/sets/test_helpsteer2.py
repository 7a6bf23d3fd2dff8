"""HelpSteer2's official cut where unanimous responses are left out (G-D4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.sets import helpsteer2

Read = Callable[..., Any]


def rated(prompt: str, response: str, *ratings: int) -> dict[str, Any]:
    scores = dict(zip(helpsteer2.ATTRIBUTES, ratings, strict=True))
    return {"prompt": prompt, "response": response, **scores}


def two(prompt: str, good: tuple[int, ...], bad: tuple[int, ...]) -> list[dict[str, Any]]:
    return [rated(prompt, "Good", *good), rated(prompt, "Bad", *bad)]


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
    whole = read_rows(helpsteer2.SOURCE, ROWS, variant=variant)
    found = read_rows(helpsteer2.SOURCE, ROWS, variant=variant, drop_unanimous=True)
    assert kept(found, "test") == kept(whole, "test")
    assert ("B", "verbosity") in kept(found, "test")
    assert kept(whole, "train") - kept(found, "train") == {
        (prompt, attribute)
        for prompt in "BC"
        for attribute in helpsteer2.ATTRIBUTES
        if (prompt, attribute) != ("B", "verbosity")
    }
    assert (whole.account.unanimous, found.account.unanimous) == (0, 2)


def test_test_rows_keep_unanimous_responses(read_rows: Read) -> None:
    found = read_rows(helpsteer2.SOURCE, ROWS, drop_unanimous=True)
    assert len(kept(found, "test")) == 5
    assert {prompt for prompt, _ in kept(found, "train")} == {"A", "D", "E"}


@pytest.mark.usefixtures("cut")
def test_the_official_cut_is_by_prompt_and_per_attribute(read_rows: Read) -> None:
    found = read_rows(helpsteer2.SOURCE, ROWS | {"train": TRAIN[::-1]}, variant="official")
    moved = {item for item in kept(found, "test") if item[0] != "V"}
    assert moved == {
        ("A", "helpfulness"),
        ("A", "correctness"),
        ("A", "coherence"),
        ("A", "complexity"),
        ("B", "verbosity"),
    }


@pytest.mark.parametrize(("variant", "tested"), [("official", 801), ("official_800", 800)])
def test_five_hundred_rows_are_cut_and_eight_hundred_drawn(
    variant: str, tested: int, read_rows: Read
) -> None:
    wordy = {
        part: [row for n in range(prompts) for row in two(f"{part} {n}", BEST, (4, 4, 4, 4, 0))]
        for part, prompts in (("train", 501), ("validation", 301))
    }
    found = read_rows(helpsteer2.SOURCE, wordy, variant=variant)
    assert (len(kept(found, "train")), len(kept(found, "test"))) == (1, tested)
