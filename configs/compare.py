"""Settings of the comparison of several runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import require


@dataclass(frozen=True)
class CompareConfig:
    """Comparison of runs on the test rows that they share.

    Attributes:
        methods: Methods to compare; by default all that a later run has.
        against: Method of the first run that a method is compared with if the first run lacks that
            method itself; by default evaluate.against.
        dir: Where comparison.json and comparison.png are written.
    """

    methods: list[str] = field(default_factory=list)
    against: str | None = None
    dir: str = "runs/compare"

    def __post_init__(self) -> None:
        require(self.dir != "", "compare.dir", "a directory", self.dir)
