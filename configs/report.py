"""Settings of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require


@dataclass(frozen=True)
class ExamplePrompt:
    """An example prompt whose router weights the report shows.

    Attributes:
        prompt: The prompt, as text.
        context: A context. The report shows the weights with it and without it.
    """

    prompt: str
    context: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.prompt.strip()), "report.prompts", "prompts with a word", self.prompt)


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows besides the numbers of its run.

    Attributes:
        compare: paper compares with the published tables and gives a verdict per cell.
        tables: Published tables to compare with, such as table2; by default all that share an
            attribute with the test rows.
        prompts: Example prompts, each a mapping with prompt and optionally context, embedded with
            the backbone of the run. By default those of an earlier report stay.
    """

    compare: Literal["none", "paper"] = "none"
    tables: list[str] = field(default_factory=list)
    prompts: list[ExamplePrompt] = field(default_factory=list)
