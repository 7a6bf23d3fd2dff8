"""Settings of ``micro-rm theory``, the numerical check of Theorem 3.2."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import require

SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class TheoryConfig:
    """Theorem 3.2 on random mixtures, and on heads fitted to samples of a known mixture.

    Attributes:
        mixtures: Random mixtures on which the bounds are compared with the exact values.
        num_groups: K, the number of groups in the fitted experiment.
        clarity: Probability of a prompt's own group given the prompt; the other groups share the
            rest. At 1/K the prompt is uninformative.
        spreads: Standard deviations of the groups' score differences, one fit for each.
        pairs: Number of pairs that heads are fitted to, and of fresh pairs for the evaluation.
        seed: Seed of the mixtures, the samples and the fits.
        dir: Directory of theory.json and theory.html, relative to the working directory.
    """

    mixtures: int = 2000
    num_groups: int = 3
    clarity: float = 0.8
    spreads: list[float] = field(default_factory=lambda: list(SPREADS))
    pairs: int = 16384
    seed: int = 0
    dir: str = "runs/theory"

    def __post_init__(self) -> None:
        require(self.mixtures >= 1, "theory.mixtures", "1 or more", self.mixtures)
        require(2 <= self.num_groups <= 20, "theory.num_groups", "2 to 20", self.num_groups)
        require(
            1 / self.num_groups <= self.clarity < 1,
            "theory.clarity",
            f"at least 1/num_groups ({1 / self.num_groups:.4g}) and below 1",
            self.clarity,
        )
        require(
            bool(self.spreads) and all(0 < spread <= 100 for spread in self.spreads),
            "theory.spreads",
            "one or more numbers in (0, 100]",
            self.spreads,
        )
        require(self.pairs >= 1000, "theory.pairs", "1000 or more", self.pairs)
        require(self.seed >= 0, "theory.seed", "0 or more", self.seed)
