"""Request limits, checked before any model call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..configs.serve import ServeConfig
from . import messages as m
from .guard import Refused


def check_sizes(config: ServeConfig, texts: Sequence[str], responses: int) -> None:
    """Raise ``Refused`` for too many responses, a text that is too long, or invalid Unicode."""
    if responses > config.responses:
        raise Refused(413, f"expected at most {config.responses} responses")
    if not all(_is_encodable(text) for text in texts):
        raise Refused(422, "a text holds half a character (a lone surrogate)")
    if max(map(len, texts)) > config.text_characters:
        raise Refused(413, f"expected texts of at most {config.text_characters:,} characters")


def prompt_texts(prompt: m.Prompt) -> list[str]:
    """The texts of a prompt, one per message."""
    return [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]


def model_prompt(prompt: m.Prompt) -> Any:
    """Convert a prompt to what ``Model.score`` takes: text, or messages as dictionaries.

    Raises ``Refused`` if no message is from the user.
    """
    if isinstance(prompt, str):
        return prompt
    if not any(turn.role == "user" for turn in prompt):
        raise Refused(422, "prompt: expected at least one user message")
    return [turn.model_dump() for turn in prompt]


def _is_encodable(text: str) -> bool:
    """JSON may hold lone surrogates, which have no UTF-8 encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
