"""How much may be asked at once, and in which form: refusals before the model is troubled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..configs.serve import ServeConfig
from . import messages as m
from .guard import Refused


def check_sizes(config: ServeConfig, texts: Sequence[str], responses: int) -> None:
    """Refuse too many responses, too long texts, and texts that are none."""
    if responses > config.responses:
        raise Refused(413, f"expected at most {config.responses} responses")
    if not all(_is_whole(text) for text in texts):
        raise Refused(422, "a text holds half a character (a lone surrogate)")
    if max(map(len, texts)) > config.text_characters:
        raise Refused(413, f"expected texts of at most {config.text_characters:,} characters")


def texts_of(prompt: m.Prompt) -> list[str]:
    """The texts of a prompt."""
    return [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]


def plain_prompt(prompt: m.Prompt) -> Any:
    """A prompt as the model takes it; one in which nobody asks anything is refused."""
    if isinstance(prompt, str):
        return prompt
    if not any(turn.role == "user" for turn in prompt):
        raise Refused(422, "prompt: expected at least one user message")
    return [turn.model_dump() for turn in prompt]


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
