"""Settings of the simulator, which draws features and labels from a known population."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import require


@dataclass(frozen=True)
class SimulatorConfig:
    """A population of groups with known reward directions that judge pairs of random responses.

    Attributes:
        seed: Seed of the simulation.
        directions: Number of groups, each with its own reward direction.
        opposed: Draw directions in opposite pairs, so that no reward that ignores both prompt and
            context beats chance.
        width: Dimension of the vectors.
        pairs: Number of training pairs.
        test_pairs: Number of test pairs; their prompts and contexts do not occur in training.
        pairs_per_prompt: Pairs that share a prompt; the group that judges is drawn for each.
        sharpness: How strongly the prompt determines the group; 0 makes all groups equally likely.
        margin_scale: Standard deviation of the reward margins of each group, in logits.
        noise: Probability that a label is flipped.
        contexts: Give every row a context, which expresses what its group prefers.
        train_wordings: Number of contexts per group in training.
        test_wordings: Number of further contexts per group, in the test split only.
        wording_spread: Distance of a context from the code of its group, relative to the length of
            the code.
    """

    seed: int = 0
    directions: int = 3
    opposed: bool = False
    width: int = 32
    pairs: int = 6000
    test_pairs: int = 1500
    pairs_per_prompt: int = 2
    sharpness: float = 4.0
    margin_scale: float = 4.0
    noise: float = 0.0
    contexts: bool = True
    train_wordings: int = 4
    test_wordings: int = 4
    wording_spread: float = 0.5

    def __post_init__(self) -> None:
        def check(condition: bool, name: str, expected: str) -> None:
            require(condition, f"data.simulator.{name}", expected, getattr(self, name))

        for name in ("directions", "pairs", "test_pairs", "pairs_per_prompt"):
            check(getattr(self, name) >= 1, name, "1 or more")
        for name in ("train_wordings", "test_wordings"):
            check(getattr(self, name) >= 1, name, "1 or more")
        for name in ("sharpness", "margin_scale", "wording_spread"):
            check(0 <= getattr(self, name) < math.inf, name, "a finite number, 0 or more")
        check(self.seed >= 0, "seed", "0 or more")
        check(0 <= self.noise <= 0.5, "noise", "between 0 and 0.5")
        check(
            not self.opposed or self.directions % 2 == 0,
            "directions",
            "an even number, because data.simulator.opposed pairs them",
        )
        check(
            self.width >= 2 * self.directions,
            "width",
            f"at least twice data.simulator.directions ({2 * self.directions}), for the prompt's "
            "coordinates and the codes of the contexts",
        )
