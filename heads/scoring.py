"""Rewards of single responses by trained methods: what best-of-n, export and serving need.

A reward is the margin over a response whose vector is zero: heads are linear and have no bias, so
rewards of two responses differ by exactly the margin that training and evaluation see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.errors import UserError
from .checkpoint import load_models
from .features import Scaler
from .methods import load_method, method_names
from .methods.interface import NO_LABEL, Examples, Prediction, Sides, Trained


class ScoringError(UserError):
    """A method cannot score what it was given; the message says which can."""


@dataclass(frozen=True)
class HeadScores:
    """N responses: rewards of K heads (N, K), weights (N, K) on the simplex, and their mean (N,).

    Weights are the mean over the draws of labelled rows that a method was fitted to.
    """

    rewards_NxK: np.ndarray
    weights_NxK: np.ndarray

    @property
    def reward_N(self) -> np.ndarray:
        """The weighted reward of every response."""
        return (self.rewards_NxK * self.weights_NxK).sum(axis=1)


@dataclass(frozen=True)
class Scorer:
    """Trained methods over raw vectors, in the type and scale that a store holds."""

    models: Mapping[str, Trained]
    scaler: Scaler

    @classmethod
    def load(cls, run: Path) -> Scorer:
        """The methods of a run. Raises ``StoreError`` if there are none or they are damaged."""
        return cls(*load_models(run))

    @property
    def names(self) -> list[str]:
        """Methods that give rewards of single responses."""
        return [name for name in self.models if self._gives_rewards(name)]

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.scaler.delta_scale_D.size

    def heads(self) -> dict[str, int]:
        """How many heads every method has that has some."""
        kernels = {name: trained.params.get("heads") for name, trained in self.models.items()}
        return {
            name: outputs["kernel"].shape[-1]
            for name, outputs in kernels.items()
            if outputs is not None
        }

    def groups(self, name: str) -> list[str]:
        """Attributes or users that a method was adapted to, in the order of its weights."""
        return list(self.models[name].settings.get("groups", []))

    def score(
        self,
        name: str,
        response_NxD: np.ndarray,
        prompt_NxD: np.ndarray,
        groups: Sequence[str] | None = None,
    ) -> HeadScores:
        """Rewards of N responses, given their vectors and those of what the router reads.

        ``groups`` names the attribute or user of each, for methods that were adapted to them. A
        method of one reward has K = 1. Raises ``ScoringError`` for a method that gives no reward of
        a single response, for shapes that do not fit, and for a group it does not know.
        """
        outputs = self._predict(name, response_NxD, np.zeros_like(response_NxD), prompt_NxD, groups)
        if outputs.heads is None:
            reward_Nx1 = outputs.statistic_SxN.mean(axis=0)[:, None]
            return HeadScores(reward_Nx1, np.ones_like(reward_Nx1))
        delta_NxK, log_weights_SxNxK = (np.asarray(part, np.float64) for part in outputs.heads)
        return HeadScores(delta_NxK, np.exp(log_weights_SxNxK).mean(axis=0))

    def probability(
        self,
        name: str,
        chosen_NxD: np.ndarray,
        rejected_NxD: np.ndarray,
        prompt_NxD: np.ndarray,
        groups: Sequence[str] | None = None,
    ) -> np.ndarray:
        """(N,) probability that the first response is preferred, by the method's own rule.

        The mean over draws. Raises ``ScoringError`` as ``score`` does.
        """
        outputs = self._predict(name, chosen_NxD, rejected_NxD, prompt_NxD, groups)
        return np.exp(outputs.log_prob_SxN).mean(axis=0)

    def _gives_rewards(self, name: str) -> bool:
        if "heads" in self.models[name].params:
            return True
        # A run may hold a method that was defined elsewhere and is not registered here.
        return name in method_names() and load_method(name).linear

    def _predict(
        self,
        name: str,
        first_NxD: np.ndarray,
        second_NxD: np.ndarray,
        prompt_NxD: np.ndarray,
        groups: Sequence[str] | None,
    ) -> Prediction:
        if name not in self.models or not self._gives_rewards(name):
            raise ScoringError(
                f"method: expected one that gives rewards here ({', '.join(self.names)}), found "
                f"{name!r}"
            )
        expected = (len(first_NxD), self.width)
        for what, array in (("responses", first_NxD), ("prompts", prompt_NxD)):
            if array.shape != expected:
                raise ScoringError(f"{what}: expected vectors {expected}, found {array.shape}")
        rows = self.scaler.apply(first_NxD, second_NxD, prompt_NxD)
        number_N = self._numbers(name, groups, len(first_NxD))
        scale_D = self.scaler.delta_scale_D
        examples = Examples(
            data=rows,
            attribute_N=np.full(len(first_NxD), NO_LABEL),
            user_N=np.full(len(first_NxD), NO_LABEL),
            group_N=number_N,
            longer_N=np.zeros(len(first_NxD), np.float32),
            load_sides=lambda: Sides(first_NxD / scale_D, second_NxD / scale_D),
        )
        return load_method(name).predict(self.models[name], examples)

    def _numbers(self, name: str, groups: Sequence[str] | None, size: int) -> np.ndarray:
        if groups is None or load_method(name).given != "group":
            return np.full(size, NO_LABEL)
        known = {group: index for index, group in enumerate(self.groups(name))}
        unknown = sorted(set(groups) - known.keys())
        if unknown:
            raise ScoringError(
                f"group: {name} was adapted to {', '.join(known) or 'no group'}, found "
                f"{', '.join(unknown)}"
            )
        return np.array([known[group] for group in groups], np.int64)
