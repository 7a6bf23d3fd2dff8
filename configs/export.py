"""What an export of a trained run is: where it goes, its form, and whose reward it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class ExportConfig:
    """A trained run as files that other tools load.

    Attributes:
        to: Directory that is made; it must not exist, or be empty.
        tier: collapsed is one reward for one persona in a model for sequence classification,
            multihead the same with one named output per head, routed all heads with their router
            and code that needs torch, transformers and safetensors only.
        method: Method to export; by default the one that micro-rm score would take.
        context: Collapsed: the wish of the persona; its weights are those that the router gives it.
        prompts: Collapsed: prompts over which the weights of a router that reads the prompt are
            averaged; by default eight neutral ones.
        group: Collapsed: attribute or user of a method that was adapted to such groups.
        weights: Collapsed: explicit weights of the heads, summing to 1.
    """

    to: str | None = None
    tier: Literal["collapsed", "multihead", "routed"] = "collapsed"
    method: str | None = None
    context: str | None = None
    prompts: list[str] = field(default_factory=list)
    group: str | None = None
    weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        whose = [key for key in ("context", "group", "weights") if getattr(self, key)]
        require(len(whose) <= 1, "export", "one of context, group and weights", ", ".join(whose))
        others = [*whose, *(["prompts"] if self.prompts else [])]
        require(
            self.tier == "collapsed" or not others,
            f"export.{others[0] if others else 'context'}",
            "nothing, or tier collapsed: only one reward has fixed weights",
            f"tier {self.tier}",
        )
        require(
            not self.prompts or not (self.group or self.weights),
            "export.prompts",
            "nothing beside group or weights, which fix the weights of the heads",
            self.prompts,
        )
        numbers = all(0 <= weight <= 1 for weight in self.weights)
        require(
            not self.weights or (numbers and abs(sum(self.weights) - 1) < 1e-3),
            "export.weights",
            "numbers of 0 or more that sum to 1",
            self.weights,
        )
