"""OpenRLHF's remote reward model: queries that begin with their prompts (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UserError

# What chat templates put between turns: such a prompt is not what a person wrote.
TURN_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")


class QueryError(UserError):
    """A query that cannot be taken apart; the message says which."""


def response_of(query: str, prompt: str, number: int, end_marks: Sequence[str]) -> str:
    """What comes after the prompt, without marks and white space around it that end a turn.

    Raises ``QueryError`` if the query does not begin with the prompt, or the prompt was rendered by
    a chat template: the backbone has a template of its own, and rewards would be of other texts.

    >>> response_of("Why? Because.</s><pad>", "Why?", 0, ["</s>", "<pad>"])
    'Because.'
    """
    for mark in TURN_MARKS:
        if mark in prompt:
            raise QueryError(
                f"prompts[{number}]: holds {mark}, so a chat template has rendered it; send plain "
                "prompts (without apply_chat_template), the service renders them itself"
            )
    if not query.startswith(prompt):
        raise QueryError(f"query[{number}]: expected it to begin with prompts[{number}]")
    response = query[len(prompt) :].strip()
    while mark := next((mark for mark in end_marks if response.endswith(mark)), ""):
        response = response[: -len(mark)].rstrip()
    return response
