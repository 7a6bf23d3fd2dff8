"""What micro-rm score is asked: texts on the command line, or a file of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScoreConfig:
    """Texts to score with a trained run (run.dir).

    Attributes:
        prompt: The prompt, as text.
        responses: One or more responses to it; several are ranked.
        context: The wish that the responses are judged by.
        method: Trained method; by default micro with a wish and micro_stage1 without one.
        group: Attribute or user, for methods that were adapted to them.
    """

    prompt: str | None = None
    responses: list[str] = field(default_factory=list)
    context: str | None = None
    method: str | None = None
    group: str | None = None
