"""The knobs of the feature-space simulator: a population with known truth at any size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import require


@dataclass(frozen=True)
class SimulatorConfig:
    """Groups with planted reward directions who judge pairs of random answers.

    Attributes:
        seed: Seed of everything that is drawn.
        directions: Groups, each with its own reward direction.
        opposed: Directions come in opposite pairs, so that no reward that ignores prompt and wish
            beats a coin.
        width: Numbers per vector.
        pairs: Training pairs.
        test_pairs: Test pairs; their prompts and wordings do not occur in training.
        pairs_per_prompt: Pairs that share a prompt; each is judged by a group of its own.
        sharpness: How strongly the prompt decides the group; 0 makes all groups equally likely.
        margin_scale: Standard deviation of every group's reward margins, in logits.
        noise: Probability that a label is reversed.
        contexts: Rows state the wish of their group.
        train_wordings: Wordings of each group's wish in training.
        test_wordings: Other wordings of it, at test only.
        wording_spread: Distance of a wording from the code of its group, as a share of the length
            of a code.
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
            "coordinates and the codes of the wishes",
        )
