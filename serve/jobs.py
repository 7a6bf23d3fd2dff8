"""What the model's thread computes: the responses of many requests in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

# Of a prompt, a wish and a response that was scored with them.
Vector = Callable[[Any, str | None, str], np.ndarray]

# A method's prediction is compiled for a number of rows: it sees powers of two only.
SMALLEST = 1


class OneScore(Protocol):
    """As ``serve.model.Score``."""

    @property
    def reward(self) -> float: ...
    @property
    def head_rewards(self) -> list[float]: ...
    @property
    def weights(self) -> list[float]: ...
    @property
    def method(self) -> str: ...


class Scoring(Protocol):
    """What the service needs of ``serve.model.Model``."""

    @property
    def methods(self) -> list[str]: ...
    @property
    def head_names(self) -> list[str]: ...
    def default_method(self, *, wish: bool) -> str: ...
    def score(
        self,
        prompts: Sequence[Any],
        responses: Sequence[str],
        contexts: Sequence[str | None] | None = None,
        *,
        method: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> Sequence[OneScore]: ...


class Job(NamedTuple):
    """Responses to prompts under wishes, all by one method; ``group`` for those that need one.

    ``vector``: the vector that the router reads for the first of them is wanted as well.
    """

    prompts: list[Any]
    responses: list[str]
    contexts: list[str | None]
    method: str
    group: str | None = None
    vector: bool = False

    @property
    def characters(self) -> int:
        """Length of all texts."""
        texts = (*self.responses, *(wish or "" for wish in self.contexts))
        return sum(map(len, texts)) + sum(map(prompt_characters, self.prompts))


def prompt_characters(prompt: Any) -> int:
    """Length of a prompt, a text or messages."""
    return len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)


class Scored(NamedTuple):
    """The scores of a job, and the router's vector (D,) where it was wanted."""

    scores: list[OneScore]
    vector_D: np.ndarray | None


def score_jobs(model: Scoring, jobs: Sequence[Job], vector: Vector | None = None) -> list[Scored]:
    """The scores of every job; jobs of one method and kind go through the model together."""
    together: dict[tuple[str, bool], list[int]] = {}
    for place, job in enumerate(jobs):
        together.setdefault((job.method, job.group is None), []).append(place)
    answers = [Scored([], None)] * len(jobs)
    for (method, plain), places in together.items():
        rows = [
            (prompt, response, wish, jobs[place].group or "")
            for place in places
            for prompt, response, wish in zip(*jobs[place][:3], strict=True)
        ]
        padded = rows + rows[-1:] * (padded_size(len(rows)) - len(rows))
        prompts, responses, wishes, groups = map(list, zip(*padded, strict=True))
        scores = iter(
            model.score(prompts, responses, wishes, method=method, groups=None if plain else groups)
        )
        for place in places:
            job, vector_D = jobs[place], None
            if vector is not None and job.vector:
                vector_D = vector(job.prompts[0], job.contexts[0], job.responses[0])
            answers[place] = Scored([next(scores) for _ in job.responses], vector_D)
    return answers


def padded_size(rows: int) -> int:
    """The next power of two; a repeated text is embedded once, so that padding costs nothing.

    >>> [padded_size(rows) for rows in (1, 2, 3, 64, 65)]
    [1, 2, 4, 64, 128]
    """
    size = 1
    while size < rows:
        size *= 2
    return size
