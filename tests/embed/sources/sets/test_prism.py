"""PRISM's rows as upstream makes them: empty answers, answers that are the same, its survey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Loaded

Read = Callable[..., Loaded]

# What a model said, its score, whether the person went on with it.
Said = tuple[Any, Any, bool]
GOOD: list[Said] = [("Yes.", 80, True), ("No.", 30, False)]
PERSON = {"user_id": "ada", "system_string": "Be brief.", "self_description": "I sail."}


def conversation(*turns: tuple[Any, list[Said]], user: str = "ada") -> dict[str, Any]:
    history = []
    for number, (words, answers) in enumerate(turns):
        history.append({"turn": number, "role": "user", "content": words})
        history += [
            {"turn": number, "role": "model", "content": text, "score": score, "if_chosen": chosen}
            for text, score, chosen in answers
        ]
    return {"user_id": user, "conversation_type": "unguided", "conversation_history": history}


@pytest.fixture
def read(read_rows: Callable[..., Loaded]) -> Read:
    """``read(conversations, people=[PERSON], **settings of data)``."""

    def run(rows: list[Any], people: Sequence[Any] = (PERSON,), **settings: Any) -> Loaded:
        return read_rows("prism", {"conversations": rows, "survey": list(people)}, **settings)

    return run


def test_an_answer_that_upstream_marks_as_empty_is_no_comparison(read: Read) -> None:
    answers = [*GOOD, ("EMPTY STRING", 1, False)]
    pairs, account = read([conversation(("Dry?", answers))])
    assert [pair.rejected for pair in pairs] == ["No."]
    assert account.left_out == {"an answer is empty": 1}


def test_two_chosen_answers_that_are_the_same_are_no_comparison_and_go_on(read: Read) -> None:
    twice: list[Said] = [("Ask.", 60, True), ("Ask.", 50, True), ("Go.", 20, False)]
    row = conversation(("Dry?", twice), ("Sure?", GOOD))
    pairs, account = read([row])
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs] == [
        ("Ask.", "Go.", 40),
        ("Yes.", "No.", 50),
    ]
    assert [turn.content for turn in pairs[1].prompt] == ["Dry?", "Ask.", "Sure?"]
    assert account.left_out == {"an answer is the same text as the chosen one": 1}
    assert not account.refusals


@pytest.mark.parametrize(
    ("words", "answers", "reason"),
    [
        ("EMPTY STRING", GOOD, "message or the chosen answer is empty"),
        ("Sure?", [("EMPTY STRING", 80, True), ("No.", 30, False)], "chosen answer is empty"),
        ("Sure?", [("Yes.", 80, True), ("No.", 30, True)], "one chosen answer, found 2"),
        ("Sure?", [("Yes.", 80, False)], "one chosen answer, found 0"),
        ("Sure?", [("Yes.", 80, True), ("No.", None, False)], "expected a number"),
        (None, GOOD, "expected text"),
    ],
)
def test_a_turn_that_cannot_be_used_refuses_its_whole_conversation(
    words: Any, answers: list[Said], reason: str, read: Read
) -> None:
    """The turns before it are not counted as ties or left out either."""
    tied: list[Said] = [("Yes.", 80, True), ("No.", 80, False), ("EMPTY STRING", 1, False)]
    rows = [conversation(("Dry?", tied), (words, answers)), conversation(("Dry?", GOOD))]
    pairs, account = read(rows)
    assert [pair.row for pair in pairs] == [2]
    (refusal,) = account.refusals
    assert refusal.field == "conversation_history, turn 1" and reason in refusal.reason
    assert not account.ties and not account.left_out


def test_a_turn_without_the_persons_words_refuses_its_conversation(read: Read) -> None:
    row = conversation(("Dry?", GOOD))
    del row["conversation_history"][0]
    other = conversation(("Dry?", GOOD))
    other["conversation_history"].insert(0, {"turn": 0, "role": "user", "content": "Wet?"})
    pairs, account = read([row, other])
    assert not pairs
    assert [item.reason for item in account.refusals] == [
        "expected one user message, found 0",
        "expected one user message, found 2",
    ]


def test_turns_are_taken_by_their_number(read: Read) -> None:
    row = conversation(("Dry?", GOOD), ("Sure?", GOOD))
    row["conversation_history"].reverse()
    pairs, _ = read([row])
    assert [pair.prompt[-1].content for pair in pairs] == ["Dry?", "Sure?"]


def test_a_limit_of_conversations_keeps_their_people(read: Read) -> None:
    people = [PERSON | {"user_id": f"person {number}"} for number in range(20)]
    rows = [conversation(("Dry?", GOOD), user=person["user_id"]) for person in people]
    pairs, account = read(rows, people, limit=3)
    assert len(pairs) == 3 and not account.refusals
    assert account.left_out == {"beyond data.limit": 17}


def test_a_row_of_the_survey_that_is_no_row_is_refused(read: Read) -> None:
    """Somebody who said nothing has no wish, but takes part."""
    silent = PERSON | {"user_id": "bo", "system_string": ""}
    people = [PERSON, {"user_id": "cy"}, PERSON | {"user_id": "di", "system_string": 7}, silent]
    rows = [conversation(("Dry?", GOOD), user=user) for user in ("ada", "bo", "cy", "di")]
    pairs, account = read(rows, people)
    assert [(pair.user, pair.context) for pair in pairs] == [("ada", "Be brief."), ("bo", None)]
    assert [(Path(item.file).stem, item.row) for item in account.refusals] == [
        ("survey", 2),
        ("survey", 3),
        ("conversations", 3),
        ("conversations", 4),
    ]
    assert account.refusals[-1].reason == "di is not in the survey"


def test_a_profile_can_be_the_context(read: Read) -> None:
    pairs, _ = read([conversation(("Dry?", GOOD))], variant="profile")
    assert [pair.context for pair in pairs] == ["I sail."]


def test_a_tie_is_one_of_its_kind_of_conversation(read: Read) -> None:
    row = conversation(("Dry?", [("Yes.", 80, True), ("No.", 80, False)]))
    pairs, account = read([row | {"conversation_type": "values guided"}])
    assert not pairs and account.ties == {"values-guided": 1}


def test_a_person_is_held_out_with_all_conversations(read: Read) -> None:
    rows = [conversation(("Dry?", GOOD)), conversation(("Wet?", GOOD))]
    for fraction, split in ((1e-9, "train"), (1 - 1e-9, "test")):
        pairs, _ = read(rows, test_fraction=fraction)
        assert [pair.split for pair in pairs] == [split, split]
