"""Settings of the export of a trained run: directory, kind of model, and whose reward it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class ExportConfig:
    """Export of a trained run as a model that other tools load.

    Attributes:
        to: Directory to write; it must be empty or not exist.
        tier: Kind of model. collapsed is a sequence classifier with one reward, for fixed weights
            of the heads; multihead a sequence classifier with one named output per head; routed
            has all heads and the router, with code that needs torch, transformers and safetensors.
        method: Method to export; by default the one that micro-rm score would use.
        context: Collapsed: context whose router weights are fixed.
        prompts: Collapsed: prompts over which router weights are averaged, if the router reads the
            prompt; by default eight neutral ones.
        group: Collapsed: attribute or user whose weights are fixed, for methods that are adapted to
            groups.
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
