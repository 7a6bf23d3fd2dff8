"""Split data that have no split of their own by prompt."""

from __future__ import annotations

from .pair import Message, hash_fraction


def split_of(prompt: tuple[Message, ...], test_fraction: float) -> str:
    """``test`` for a share of all prompts, else ``train``.

    A hash of the prompt decides, so the split of a prompt does not depend on the other data, and a
    larger fraction only moves prompts from train to test.
    """
    held_out = hash_fraction("split", [list(turn) for turn in prompt]) < test_fraction
    return "test" if held_out else "train"
