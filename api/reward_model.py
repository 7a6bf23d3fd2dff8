"""One method of a run as a reward model of raw text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..common.errors import require
from ..serve.model import Model, Prompt, load


class RewardModel:
    """A method of a run with its backbone: rewards of responses to a prompt, under a context.

    ``Run.model`` makes one; ``micro_rm.load`` gives all methods of a run at once.

    Args:
        model: The run's methods with their backbone.
        method: Name of the method.
    """

    def __init__(self, model: Model, method: str) -> None:
        require(method in model.methods, "method", f"one of {', '.join(model.methods)}", method)
        self.all_methods = model
        self.method = method

    @classmethod
    def load(cls, run: Path, method: str | None, *, device: str = "auto") -> RewardModel:
        """A method of a run directory, by default the one that suits prompts with a context."""
        model = load(run, device=device)
        return cls(model, method or model.default_method(has_context=True))

    @property
    def head_names(self) -> list[str]:
        """What each head serves, if the run was evaluated, else its number."""
        return self.all_methods.head_names

    def score(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        context: str | None = None,
        *,
        group: str | None = None,
    ) -> np.ndarray:
        """Rewards (n,) of several responses to one prompt.

        Differences of rewards are log-odds of preference; their zero means nothing.

        Args:
            prompt: Text, or messages as dictionaries with role and content.
            responses: The n responses.
            context: What the person wants of an answer, in words.
            group: Attribute or user, for methods that were adapted to them.

        Raises:
            UserError: A text, a message or the group cannot be used.
        """
        count = len(responses)
        scores = self.all_methods.score(
            [prompt] * count,
            responses,
            [context] * count,
            method=self.method,
            groups=None if group is None else [group] * count,
        )
        return np.array([score.reward for score in scores])

    def weights(self, prompt: Prompt, context: str | None = None) -> np.ndarray:
        """Weights (K,) that the router gives the heads for a prompt; they add up to 1."""
        (score,) = self.all_methods.score([prompt], [""], [context], method=self.method)
        return np.array(score.weights)

    def probability(
        self,
        prompt: Prompt,
        first: str,
        second: str,
        context: str | None = None,
        *,
        group: str | None = None,
    ) -> float:
        """Probability that the first response is preferred to the second."""
        groups = None if group is None else [group]
        (chance,) = self.all_methods.probability(
            [prompt], [first], [second], [context], method=self.method, groups=groups
        )
        return float(chance)

    def best(self, prompt: Prompt, responses: Sequence[str], context: str | None = None) -> str:
        """The response with the highest reward."""
        return responses[int(np.argmax(self.score(prompt, responses, context)))]

    def __repr__(self) -> str:
        heads = ", ".join(self.head_names)
        return f"RewardModel({self.method!r} of {self.all_methods.run}): heads {heads}"
