"""Settings of micro-rm score."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScoreConfig:
    """Texts to score with the trained run in run.dir.

    Attributes:
        prompt: The prompt, as text.
        responses: One or more responses to it; several are ranked.
        context: Context of the prompt: the user's stated wish for the answer.
        method: Trained method; by default micro with a context and micro_stage1 without one.
        group: Attribute or user, for methods that are adapted to groups.
    """

    prompt: str | None = None
    responses: list[str] = field(default_factory=list)
    context: str | None = None
    method: str | None = None
    group: str | None = None
