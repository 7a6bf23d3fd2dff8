"""Jobs of the model thread: the responses of many requests scored in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

# (prompt, context, scored response) -> (D,) input of the router.
RouterVector = Callable[[Any, str | None, str], np.ndarray]


class ResponseScore(Protocol):
    """The fields of ``serve.model.Score`` that the service reads."""

    @property
    def reward(self) -> float: ...
    @property
    def head_rewards(self) -> list[float]: ...
    @property
    def weights(self) -> list[float]: ...
    @property
    def method(self) -> str: ...


class ScoringModel(Protocol):
    """The part of ``serve.model.Model`` that the service uses."""

    @property
    def methods(self) -> list[str]: ...
    @property
    def head_names(self) -> list[str]: ...
    def default_method(self, *, has_context: bool) -> str: ...
    def score(
        self,
        prompts: Sequence[Any],
        responses: Sequence[str],
        contexts: Sequence[str | None] | None = None,
        *,
        method: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> Sequence[ResponseScore]: ...


class Job(NamedTuple):
    """N responses, each with its prompt and context, to be scored by one method.

    Attributes:
        prompts: N texts or message lists.
        responses: N texts.
        contexts: Context of each of N prompts, None where there is none.
        method: Name of the method.
        group: Attribute or user for methods that were adapted to groups.
        wants_vector: Also return the router's input for the first response.
    """

    prompts: list[Any]
    responses: list[str]
    contexts: list[str | None]
    method: str
    group: str | None = None
    wants_vector: bool = False

    @property
    def characters(self) -> int:
        """Total length of all texts, by which batches are limited."""
        texts = (*self.responses, *(context or "" for context in self.contexts))
        return sum(map(len, texts)) + sum(map(prompt_characters, self.prompts))


def prompt_characters(prompt: Any) -> int:
    """Number of characters of a prompt, given as text or messages."""
    return len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)


class JobScores(NamedTuple):
    """Scores of a job in order, and the router's input (D,) if the job wanted it."""

    scores: list[ResponseScore]
    vector_D: np.ndarray | None


def score_jobs(
    model: ScoringModel, jobs: Sequence[Job], router_vector: RouterVector | None = None
) -> list[JobScores]:
    """Score several jobs and return their results in order.

    Jobs of one method go through the model together, apart from each other only by whether they
    name a group.
    """
    batches: dict[tuple[str, bool], list[int]] = {}
    for index, job in enumerate(jobs):
        batches.setdefault((job.method, job.group is None), []).append(index)
    results = [JobScores([], None)] * len(jobs)
    for (method, ungrouped), indices in batches.items():
        rows = [
            (prompt, response, context, jobs[index].group or "")
            for index in indices
            for prompt, response, context in zip(*jobs[index][:3], strict=True)
        ]
        # Prediction is compiled per number of rows: powers of two keep the programs few.
        padded = rows + rows[-1:] * (padded_size(len(rows)) - len(rows))
        prompts, responses, contexts, groups = map(list, zip(*padded, strict=True))
        scores = iter(
            model.score(
                prompts, responses, contexts, method=method, groups=None if ungrouped else groups
            )
        )
        for index in indices:
            job, vector_D = jobs[index], None
            if router_vector is not None and job.wants_vector:
                vector_D = router_vector(job.prompts[0], job.contexts[0], job.responses[0])
            results[index] = JobScores([next(scores) for _ in job.responses], vector_D)
    return results


def padded_size(rows: int) -> int:
    """Smallest power of two that is at least ``rows``.

    Padding repeats a row, whose text is embedded once, so that it costs next to nothing.

    >>> [padded_size(rows) for rows in (1, 2, 3, 64, 65)]
    [1, 2, 4, 64, 128]
    """
    size = 1
    while size < rows:
        size *= 2
    return size
