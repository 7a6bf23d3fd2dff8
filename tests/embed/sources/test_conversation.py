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

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hello", [(USER, "hello")]),
        ("  hello", [(USER, "  hello")]),
        ("Human: a\n\nAssistant:", [(USER, "a")]),
        (
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: ",
            [(USER, "a"), (ASSISTANT, "b"), (USER, "c")],
        ),
        ([turn(USER, "hello")], [(USER, "hello")]),
        (
            [turn(SYSTEM, "s"), turn(USER, "a"), turn(ASSISTANT, "b"), turn(USER, "c")],
            [(SYSTEM, "s"), (USER, "a"), (ASSISTANT, "b"), (USER, "c")],
        ),
        ([{"role": USER, "content": "a", "name": "ann"}], [(USER, "a")]),
        ("Human: a", [(USER, "a")]),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", [(USER, "a"), (ASSISTANT, "b"), (USER, "c")]),
        ("Human:a\n\nAssistant:b\n\nHuman:c", [(USER, "a"), (ASSISTANT, "b"), (USER, "c")]),
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
        (None, "prompt", "expected text, found NoneType"),
        (3, "prompt", "expected text, found int"),
        ({"text": "a"}, "prompt", "expected text, found dict"),
        ("", "prompt", "found an empty string"),
        (" \n\t", "prompt", "found an empty string"),
        ("a\x00b", "prompt", "NUL"),
        ("a\ud800b", "prompt", "lone surrogate"),
        ([], "prompt", "found an empty list"),
        (["hello"], "prompt[0]", "expected a message object, found str"),
        ([turn(USER, "a"), turn("tool", "b")], "prompt[1].role", "found 'tool'"),
        ([{"content": "a"}], "prompt[0].role", "found None"),
        ([{"role": USER}], "prompt[0].content", "found NoneType"),
        ([turn(USER, ["a"])], "prompt[0].content", "found list"),
        ([turn(USER, "")], "prompt[0].content", "found an empty string"),
        ([turn(USER, "a"), turn(ASSISTANT, "b")], "prompt", "found assistant"),
        ([turn(SYSTEM, "a")], "prompt", "found system"),
        ("Human: a\n\nAssistant: b", "prompt", "found assistant"),
        ("Human: a\n\nHuman: b", "prompt", "two user turns in a row"),
        ("Human: a\n\nAssistant:\n\nHuman: c", "prompt", "an empty turn"),
        ("Human:\n\nAssistant: b\n\nHuman: c", "prompt", "an empty turn"),
    ],
)
def test_refused_prompts_name_field_and_reason(value: Any, field: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_prompt(value, "prompt")
    assert caught.value.field == field
    assert reason in caught.value.reason


PROMPT = (Message(USER, "a"), Message(ASSISTANT, "b"), Message(USER, "c"))
TURNS = [message._asdict() for message in PROMPT]


@pytest.mark.parametrize(
    "value",
    [
        "fine.",
        [turn(ASSISTANT, "fine.")],
        [*TURNS, turn(ASSISTANT, "fine.")],
        "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: fine.",
    ],
)
def test_a_response_is_a_text_a_message_or_the_prompts_conversation(value: Any) -> None:
    assert parse_response(value, "chosen", PROMPT) == "fine."


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "found NoneType"),
        (" ", "found an empty string"),
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
    assert caught.value.field == "chosen"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ([*TURNS, turn(ASSISTANT, "x")], [*TURNS, turn(ASSISTANT, "y")]),
        (
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: x",
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: y",
        ),
        (
            [*TURNS, turn(ASSISTANT, "x")],
            "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: y",
        ),
    ],
)
def test_whole_conversations_split_before_their_last_turn(chosen: Any, rejected: Any) -> None:
    assert split_conversations(chosen, rejected, ("chosen", "rejected")) == (PROMPT, "x", "y")


ENDED = [*TURNS, turn(ASSISTANT, "x")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "field", "reason"),
    [
        ("x", "y", "chosen", "add a prompt column"),
        (ENDED, "y", "rejected", "found plain text"),
        (TURNS, ENDED, "chosen", "ends with an assistant message"),
        ([turn(ASSISTANT, "x")], ENDED, "chosen", "ends with an assistant message"),
        (
            ENDED,
            [turn(USER, "z"), *TURNS[1:], turn(ASSISTANT, "y")],
            "rejected",
            "differ before their last message",
        ),
        (ENDED, [*TURNS[:1], turn(ASSISTANT, "y")], "rejected", "differ before"),
        (
            [turn(SYSTEM, "s"), turn(ASSISTANT, "x")],
            [turn(SYSTEM, "s"), turn(ASSISTANT, "y")],
            "chosen",
            "found system",
        ),
        (ENDED, [*TURNS, turn(ASSISTANT, None)], "rejected[3].content", "found NoneType"),
    ],
)
def test_refused_conversations_name_field_and_reason(
    chosen: Any, rejected: Any, field: str, reason: str
) -> None:
    with pytest.raises(RowError) as caught:
        split_conversations(chosen, rejected, ("chosen", "rejected"))
    assert caught.value.field == field
    assert reason in caught.value.reason


WORDS = st.text(alphabet="abc \n.:", min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and "\n\n" not in text
)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_a_transcript_comes_back_as_it_was_written(contents: list[str]) -> None:
    names = [("Human", "Assistant")[index % 2] for index in range(len(contents))]
    text = "".join(f"\n\n{name}: {words}" for name, words in zip(names, contents, strict=True))
    roles = [(USER, ASSISTANT)[index % 2] for index in range(len(contents))]
    expected = tuple(Message(*pair) for pair in zip(roles, contents, strict=True))
    assert parse_conversation(text, "x") == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=7), inner),
    max_leaves=8,
)


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(JSON, JSON)
def test_whatever_a_row_holds_it_is_parsed_or_refused(first: Any, second: Any) -> None:
    for value in (first, [turn(USER, first), second]):
        try:
            prompt = parse_prompt(value, "prompt")
        except RowError:
            continue
        assert prompt[-1].role == USER
        assert all(message.content.strip() for message in prompt)
