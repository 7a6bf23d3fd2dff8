"""Stage 1 trained under several seeds, the common basis of the studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ...common.errors import UserError
from ..fitting import fit_methods, of_seed
from ..methods import load_method
from ..methods.interface import Trained
from ..run_data import RunData

STAGE1 = "micro_stage1"


class StudyError(UserError):
    """The data or settings do not allow the study; the message says what to change."""


def with_section(data: RunData, section: str, **changes: Any) -> RunData:
    """The same data with some settings of one configuration section replaced."""
    changed = replace(getattr(data.config, section), **changes)
    return data.member(replace(data.config, **{section: changed}))


def with_seed(data: RunData, step: int) -> RunData:
    """The same data and settings with ``step`` added to the configured seed."""
    return with_section(data, "run", seed=data.config.run.seed + step)


class SeedRun(NamedTuple):
    """One seed of a study.

    Attributes:
        data: The data, partitioned and configured under the seed.
        trained: Stage 1, and the methods that others build on, by name.
    """

    data: RunData
    trained: dict[str, Trained]


# Called by the studies that need it, so that nothing is trained for the others.
SeedRuns = Callable[[], list[SeedRun]]


def train_seeds(data: RunData) -> list[SeedRun]:
    """Train stage 1 under every seed of the studies."""
    study = data.config.study
    seeded = [with_seed(data, step) for step in range(study.seeds)]
    return [SeedRun(run, train_stage1(run, study.methods)) for run in seeded]


def train_stage1(data: RunData, names: Sequence[str]) -> dict[str, Trained]:
    """Train MiCRo's stage 1 and the other methods that the named ones are adapted from."""
    needed = dict.fromkeys([STAGE1, *(need for name in names for need in load_method(name).after)])
    methods = [load_method(name) for name in needed if load_method(name).stage == "train"]
    models, _ = fit_methods(methods, [data.problem(adapt=False)], {})
    return of_seed(models, 0)
