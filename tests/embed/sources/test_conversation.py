"""Prompts and responses in every accepted form, and refusals of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.sources.conversation import (
    RowError,
    parse_conversation,
    parse_prompt,
    parse_response,
    split_conversations,
)
from micro_rm.embed.sources.pair import Message

from .conftest import turn

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
PROMPT = (Message(USER, "a"), Message(ASSISTANT, "b"), Message(USER, "c"))
TURNS = [message._asdict() for message in PROMPT]
HUMAN = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("  hello", [(USER, "  hello")]),
        ([turn(SYSTEM, "s"), *TURNS], [(SYSTEM, "s"), *PROMPT]),
        ([{"role": USER, "content": "a", "name": "ann"}], [(USER, "a")]),
        ("Human: a\n\nAssistant:", [(USER, "a")]),
        (HUMAN + "\n\nAssistant: ", PROMPT),
        ("Human:a\n\nAssistant:b\n\nHuman:c", PROMPT),
        ("Human: a\nHuman: b", [(USER, "a\nHuman: b")]),
        ("Human: a\n\nb\n\nAssistants: c", [(USER, "a\n\nb\n\nAssistants: c")]),
        ("The Human: a\n\nAssistant: b", [(USER, "The Human: a\n\nAssistant: b")]),
    ],
)
def test_prompts(value: Any, expected: list[tuple[str, str]]) -> None:
    assert parse_prompt(value, "prompt") == tuple(Message(*pair) for pair in expected)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"text": "a"}, "prompt", "expected text, found dict"),
        (" \n\t", "prompt", "found an empty string"),
        ("a\x00b", "prompt", "NUL"),
        ("a\ud800b", "prompt", "lone surrogate"),
        ([], "prompt", "found an empty list"),
        (["hello"], "prompt[0]", "expected a message object, found str"),
        ([turn(USER, "a"), turn("tool", "b")], "prompt[1].role", "found 'tool'"),
        ([{"content": "a"}], "prompt[0].role", "found None"),
        ([turn(USER, ["a"])], "prompt[0].content", "found list"),
        ([turn(USER, "a"), turn(ASSISTANT, "b")], "prompt", "found assistant"),
        ("Human: a\n\nAssistant: b", "prompt", "found assistant"),
        ("Human: a\n\nHuman: b", "prompt", "two user turns in a row"),
        ("Human: a\n\nAssistant:\n\nHuman: c", "prompt", "an empty turn"),
    ],
)
def test_refused_prompts_name_field_and_reason(value: Any, field: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_prompt(value, "prompt")
    assert caught.value.field == field and reason in caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        "fine.",
        [turn(ASSISTANT, "fine.")],
        [*TURNS, turn(ASSISTANT, "fine.")],
        HUMAN + "\n\nAssistant: fine.",
    ],
)
def test_a_response_is_a_text_a_message_or_the_prompts_conversation(value: Any) -> None:
    assert parse_response(value, "chosen", PROMPT) == "fine."


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "found NoneType"),
        ([turn(USER, "fine.")], "found 1 messages with roles user"),
        ([turn(ASSISTANT, "x"), turn(ASSISTANT, "y")], "found 2 messages"),
        ([*TURNS[:2], turn(USER, "other"), turn(ASSISTANT, "fine.")], "the row's own prompt"),
        (TURNS, "the row's own prompt"),
        ("Human: other\n\nAssistant: fine.", "the row's own prompt"),
    ],
)
def test_refused_responses_name_field_and_reason(value: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_response(value, "chosen", PROMPT)
    assert caught.value.field == "chosen" and reason in caught.value.reason


ENDED = [*TURNS, turn(ASSISTANT, "x")]


@pytest.mark.parametrize("chosen", [ENDED, HUMAN + "\n\nAssistant: x"])
def test_whole_conversations_split_before_their_last_turn(chosen: Any) -> None:
    rejected = HUMAN.strip() + "\n\nAssistant: y"
    assert split_conversations(chosen, rejected, ("chosen", "rejected")) == (PROMPT, "x", "y")


@pytest.mark.parametrize(
    ("chosen", "rejected", "field", "reason"),
    [
        ("x", "y", "chosen", "add a prompt column"),
        (ENDED, "y", "rejected", "found plain text"),
        (TURNS, ENDED, "chosen", "ends with an assistant message"),
        (ENDED[3:], ENDED, "chosen", "ends with an assistant message"),
        (ENDED, [turn(USER, "z"), *ENDED[1:]], "rejected", "differ before their last message"),
        (ENDED, [TURNS[0], turn(ASSISTANT, "y")], "rejected", "differ before"),
        ([turn(SYSTEM, "s"), ENDED[3]], [turn(SYSTEM, "s"), ENDED[3]], "chosen", "found system"),
        (ENDED, ENDED, "rejected", "the same text"),
    ],
)
def test_refused_conversations_name_field_and_reason(
    chosen: Any, rejected: Any, field: str, reason: str
) -> None:
    with pytest.raises(RowError) as caught:
        split_conversations(chosen, rejected, ("chosen", "rejected"))
    assert caught.value.field == field and reason in caught.value.reason


WORDS = st.text(alphabet="abc \n.:", min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and "\n\n" not in text
)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_a_transcript_comes_back_as_it_was_written(contents: list[str]) -> None:
    sides = [(("Human", USER), ("Assistant", ASSISTANT))[n % 2] for n in range(len(contents))]
    turns = list(zip(sides, contents, strict=True))
    text = "".join(f"\n\n{name}: {words}" for (name, _), words in turns)
    expected = tuple(Message(role, words) for (_, role), words in turns)
    assert parse_conversation(text, "x") == expected
