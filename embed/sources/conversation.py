"""Parse the prompts and responses of a file into messages and text.

Accepted are plain text, lists of ``{"role", "content"}`` messages, and transcripts with
``Human:`` / ``Assistant:`` markers as in Anthropic's HH-RLHF.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from .pair import ROLES, SAME_TEXT, SHOWN_NAMES, Message, short_repr

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")
_ROLE_OF = {"Human": "user", "Assistant": "assistant"}
# Characters. About a million tokens: longer than the context of any backbone, and still fast to
# tokenize.
TEXT_LIMIT = 1 << 22


class RowError(Exception):
    """A row cannot be used: ``field`` is the column or a part of it, ``reason`` says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def parse_prompt(value: Any, field: str) -> tuple[Message, ...]:
    """Messages of a prompt. Raises ``RowError`` unless the last one is the user's."""
    if isinstance(value, str):
        # HH-RLHF prompts end with the marker that asks for the answer.
        value = value.rstrip().removesuffix("\n\nAssistant:")
    turns = parse_conversation(value, field)
    if turns is None:
        turns = (Message("user", clean_text(value, field)),)
    if turns[-1].role != "user":
        raise RowError(field, f"expected a last turn by the user, found {turns[-1].role}")
    return turns


def parse_conversation(value: Any, field: str) -> tuple[Message, ...] | None:
    """Messages of a list of messages or of a transcript, None for plain text.

    Example:
        >>> for turn in parse_conversation("Human: Hi!\\n\\nAssistant: Hello.", "chosen"):
        ...     print(turn.role, turn.content)
        user Hi!
        assistant Hello.
    """
    if isinstance(value, list):
        if not value:
            raise RowError(field, "expected at least one message, found an empty list")
        return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))
    if isinstance(value, str) and value.lstrip().startswith("Human:"):
        return _parse_transcript(value.strip(), field)
    return None


def parse_response(value: Any, field: str, prompt: tuple[Message, ...]) -> str:
    """The text of a response: plain text, one message, or the whole conversation.

    Raises ``RowError`` if a whole conversation does not start with the row's own prompt.
    """
    turns = parse_conversation(value, field)
    if turns is None:
        return clean_text(value, field)
    if len(turns) > len(prompt) and turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if len(turns) != 1 or turns[0].role != "assistant":
        raise RowError(
            field,
            "expected one assistant message, alone or after the row's own prompt; "
            f"found {len(turns)} messages with roles "
            + ", ".join(turn.role for turn in turns[:SHOWN_NAMES])
            + ", ..." * (len(turns) > SHOWN_NAMES),
        )
    return clean_text(turns[0].content, field)


def split_conversations(
    chosen: Any, rejected: Any, fields: tuple[str, str]
) -> tuple[tuple[Message, ...], str, str]:
    """Split two whole conversations into their common prompt and the two responses.

    Raises ``RowError`` unless they differ in their last message only, which is the assistant's.
    """
    sides = []
    for value, field in zip((chosen, rejected), fields, strict=True):
        turns = parse_conversation(value, field)
        if turns is None:
            raise RowError(
                field,
                "the row has no prompt, so expected a whole conversation (messages, or text with "
                "Human:/Assistant: markers), found plain text; add a prompt column",
            )
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise RowError(field, "expected a conversation that ends with an assistant message")
        sides.append(turns)
    if sides[0][:-1] != sides[1][:-1]:
        raise RowError(fields[1], "the two conversations differ before their last message")
    prompt = parse_prompt([turn._asdict() for turn in sides[0][:-1]], fields[0])
    answers = {field: side[-1].content for field, side in zip(fields, sides, strict=True)}
    return (prompt, *two_distinct_texts(answers, fields))


def two_distinct_texts(row: Mapping[str, Any], fields: tuple[str, str]) -> tuple[str, str]:
    """Two texts of a row. Raises ``RowError`` if they are equal, or if either is no valid text."""
    first, second = (clean_text(row[field], field) for field in fields)
    if first == second:
        raise RowError(fields[1], SAME_TEXT)
    return first, second


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(field, f"expected a message object, found {type(item).__name__}")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise RowError(
            f"{field}.role", f"expected one of {', '.join(ROLES)}, found {short_repr(role)}"
        )
    return Message(role, clean_text(content, f"{field}.content"))


def _parse_transcript(text: str, field: str) -> tuple[Message, ...]:
    """Messages of a text with ``Human:`` and ``Assistant:`` markers."""
    marks = list(_TURN.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    # A turn reaches from behind its marker to the next one.
    turns = [
        Message(_ROLE_OF[mark.group(1)], text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]
    for before, after in itertools.pairwise(turns):
        if before.role == after.role:
            raise RowError(field, f"two {after.role} turns in a row in the transcript")
    if not all(turn.content for turn in turns):
        raise RowError(field, "the transcript has an empty turn")
    return tuple(turns)


def clean_text(value: Any, field: str) -> str:
    """Return text that can be tokenized and stored; raise ``RowError`` for anything else."""
    if not isinstance(value, str):
        raise RowError(field, f"expected text, found {type(value).__name__}")
    if not value.strip():
        raise RowError(field, "expected text, found an empty string")
    if len(value) > TEXT_LIMIT:
        raise RowError(field, f"text of {len(value):,} characters, at most {TEXT_LIMIT:,} are read")
    if "\x00" in value or not _encodable(value):
        raise RowError(field, "text contains NUL or a lone surrogate and cannot be encoded")
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode()  # a scan for surrogates in Python takes longer than the rest of the parsing
    except UnicodeEncodeError:
        return False
    return True
