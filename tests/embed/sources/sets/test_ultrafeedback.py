"""UltraFeedback row by row: ratings that are texts, ratings that are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message
from micro_rm.embed.sources.sets import ultrafeedback

Read = Callable[..., Any]


def answer(response: str, *ratings: Any) -> dict[str, Any]:
    named = zip(ultrafeedback.ATTRIBUTES, ratings, strict=True)
    return {"response": response, "annotations": {name: {"Rating": value} for name, value in named}}


def row(*completions: Any, instruction: str = "Write a riddle.") -> dict[str, Any]:
    return {"instruction": instruction, "completions": list(completions)}


GOOD, BAD = answer("Good", "5", "4", "2", "N/A"), answer("Bad", "1", "4", "3", "2")


def test_attributes_that_both_answers_are_rated_on_make_a_pair_each(read_rows: Read) -> None:
    found = read_rows("ultrafeedback", {"train": [row(GOOD, BAD)]}, test_fraction=1e-9)
    assert [(p.attribute, p.chosen, p.rejected, p.margin, p.split, p.row) for p in found.pairs] == [
        ("instruction_following", "Good", "Bad", 4, "train", 1),
        ("honesty", "Bad", "Good", 1, "train", 1),
    ]
    assert {p.prompt for p in found.pairs} == {(Message("user", "Write a riddle."),)}
    assert found.account.ties == {"truthfulness": 1}
    assert found.account.left_out == {"ratings of helpfulness that are N/A": 1}


def test_ratings_that_arrive_as_numbers_are_the_same_ratings(read_rows: Read) -> None:
    """datasets decodes texts such as "5" where a column of a file mixes types."""
    numbers = answer("Good", 5, 4, 2, "N/A"), answer("Bad", 1, 4, 3, 2)
    texts = read_rows("ultrafeedback", {"train": [row(GOOD, BAD)]})
    assert read_rows("ultrafeedback", {"train": [row(*numbers)]}) == texts


def test_every_two_answers_of_a_row_are_compared_and_no_others(read_rows: Read) -> None:
    four = [answer(str(n), str(n), "N/A", "N/A", "N/A") for n in range(1, 5)]
    again = [answer(f"{n}!", str(n), "N/A", "N/A", "N/A") for n in range(1, 3)]
    found = read_rows("ultrafeedback", {"train": [row(*four), row(*again)]})
    assert Counter(pair.row for pair in found.pairs) == {1: 6, 2: 1}
    assert all(int(p.chosen.strip("!")) > int(p.rejected.strip("!")) for p in found.pairs)


@pytest.mark.parametrize("rating", ["ten", None, "0", "6"])
def test_a_rating_off_the_scale_refuses_its_row_and_nothing_of_it_is_counted(
    rating: Any, read_rows: Read
) -> None:
    bad = answer("Bad", "1", "4", "3", rating)
    found = read_rows("ultrafeedback", {"train": [row(GOOD, bad)]})
    (refusal,) = found.account.refusals
    assert refusal.field == "completions[1].annotations.helpfulness.Rating"
    assert "1, 2, 3, 4, 5 or N/A" in refusal.reason
    assert not found.pairs and not found.account.left_out and not found.account.ties


@pytest.mark.parametrize("completions", [[], None])
def test_a_row_without_completions_is_left_out(completions: Any, read_rows: Read) -> None:
    rows = [{"instruction": "Hello", "completions": completions}]
    found = read_rows("ultrafeedback", {"train": rows})
    assert not found.pairs and found.account.left_out == {"no completions": 1}


def test_an_empty_answer_refuses_its_row(read_rows: Read) -> None:
    found = read_rows("ultrafeedback", {"train": [row(GOOD, BAD, answer("", *"1111"))]})
    assert not found.pairs
    assert [item.field for item in found.account.refusals] == ["completions[2].response"]


def test_two_answers_of_the_same_text_are_refused_and_the_others_compared(read_rows: Read) -> None:
    same = answer("Good", *"1111")
    found = read_rows("ultrafeedback", {"train": [row(GOOD, same, answer("Bad", *"2222"))]})
    (refusal,) = found.account.refusals
    assert "same text" in refusal.reason and refusal.row == 1
    assert {frozenset((p.chosen, p.rejected)) for p in found.pairs} == {frozenset(("Good", "Bad"))}


def test_an_instruction_is_held_out_with_all_its_answers(read_rows: Read) -> None:
    rows = [row(GOOD, BAD, instruction=f"Riddle {number}") for number in range(40)]
    found = read_rows("ultrafeedback", {"train": rows}, test_fraction=0.5)
    splits = {number: {p.split for p in found.pairs if p.row == number} for number in range(1, 41)}
    assert {len(names) for names in splits.values()} == {1}
    assert 8 < sum(names == {"test"} for names in splits.values()) < 32
