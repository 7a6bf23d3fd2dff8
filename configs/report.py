"""What a report shows beside the numbers of its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class ExamplePrompt:
    """A prompt of one's own whose router weights a report shows.

    Attributes:
        prompt: The prompt, as text.
        context: A wish. The report shows the weights with it and without it.
    """

    prompt: str
    context: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.prompt.strip()), "report.prompts", "prompts with a word", self.prompt)


@dataclass(frozen=True)
class ReportConfig:
    """What a report sets beside its own numbers.

    Attributes:
        compare: paper for the published tables, with a verdict per cell, or nothing.
        tables: Published tables to compare with, such as table2; by default all that share an
            attribute with the test rows.
        prompts: Prompts of one's own, each a mapping with prompt and, for a wish, context. They are
            embedded with the backbone of the run. By default those that the report has stay.
    """

    compare: Literal["none", "paper"] = "none"
    tables: list[str] = field(default_factory=list)
    prompts: list[ExamplePrompt] = field(default_factory=list)
