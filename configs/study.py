"""Settings of the studies of K, budget, temperature, pruning and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import require

STUDIES = ("num_heads", "budget", "tau", "pruning", "agreement")


@dataclass(frozen=True)
class StudyConfig:
    """Studies of the effect of a setting, each with a table and a plot in the report.

    Attributes:
        names: Studies to run: any of num_heads, budget, tau, pruning, agreement.
        methods: Adapted methods to include, besides MiCRo's stage 1 and its best single heads.
        seeds: Number of seeds per setting: run.seed, run.seed + 1, ...
        num_heads: Values of K.
        budgets: Labelled rows per group; values above adapt.pool, or above the rows of some
            attribute, are skipped.
        taus: Temperatures of the Hedge targets.
        correlations: Thresholds at which pruning merges heads: the correlation of their margins on
            held-out rows. A value above 1 keeps all heads.
    """

    names: list[str] = field(default_factory=lambda: list(STUDIES))
    methods: list[str] = field(default_factory=lambda: ["micro", "micro_kernel", "micro_hyre"])
    seeds: int = 5
    num_heads: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 8, 10, 15, 20])
    budgets: list[int] = field(default_factory=lambda: [0, 5, 10, 20, 50, 100, 200])
    taus: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0])
    correlations: list[float] = field(default_factory=lambda: [0.9, 0.95, 0.99, 1.01])

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in STUDIES]
        require(not unknown, "study.names", f"some of {', '.join(STUDIES)}", unknown)
        for key in ("names", "methods"):
            require(bool(getattr(self, key)), f"study.{key}", "one or more", getattr(self, key))
        require(self.seeds >= 1, "study.seeds", "1 or more", self.seeds)
        for key, smallest in (("num_heads", 1), ("budgets", 0)):
            values = getattr(self, key)
            fine = bool(values) and min(values) >= smallest
            require(fine, f"study.{key}", f"numbers of {smallest} or more", values)
        for key in ("taus", "correlations"):
            values = getattr(self, key)
            require(bool(values) and min(values) > 0, f"study.{key}", "numbers above 0", values)
