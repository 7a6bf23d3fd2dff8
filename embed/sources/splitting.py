"""The split of data that bring none: by prompt, from its content alone."""

from __future__ import annotations

from .pair import Message, hash_fraction


def split_of(prompt: tuple[Message, ...], test_fraction: float) -> str:
    """``test`` for a share of all prompts, else ``train``, whatever else there is."""
    held_out = hash_fraction("split", [list(turn) for turn in prompt]) < test_fraction
    return "test" if held_out else "train"
