"""OpenRLHF's remote reward models: split each query into its prompt and response (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UserError

# Turn markers of chat templates; a prompt that holds one was rendered already.
TURN_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")


class QueryError(UserError):
    """A query cannot be split into prompt and response; the message names its index."""


def split_response(query: str, prompt: str, index: int, end_marks: Sequence[str]) -> str:
    """Return the response part of a query, without trailing end marks and surrounding whitespace.

    Args:
        query: Prompt and response in one text.
        prompt: The prompt that the query begins with.
        index: Position in the request, for error messages.
        end_marks: Strings such as ``</s>`` to cut off the end.

    Raises ``QueryError`` if the query does not begin with the prompt, or if a chat template has
    rendered the prompt: the backbone applies its own template, so the reward would be of another
    text.

    >>> split_response("Why? Because.</s><pad>", "Why?", 0, ["</s>", "<pad>"])
    'Because.'
    """
    for mark in TURN_MARKS:
        if mark in prompt:
            raise QueryError(
                f"prompts[{index}]: holds {mark}, so a chat template has rendered it; send plain "
                "prompts (without apply_chat_template), the service renders them itself"
            )
    if not query.startswith(prompt):
        raise QueryError(f"query[{index}]: expected it to begin with prompts[{index}]")
    response = query[len(prompt) :].strip()
    while mark := next((mark for mark in end_marks if response.endswith(mark)), ""):
        response = response[: -len(mark)].rstrip()
    return response
