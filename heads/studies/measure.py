"""Stage 1 under every seed: what the studies of the heads are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ...common.errors import UserError
from ..fitting import fit_methods
from ..methods import load_method
from ..methods.interface import Trained
from ..run_data import RunData

STAGE1 = "micro_stage1"


class StudyError(UserError):
    """A study cannot be made of these data; the message says what to change."""


def with_section(bench: RunData, section: str, **changes: Any) -> RunData:
    """The same data under another setting of one section."""
    changed = replace(getattr(bench.config, section), **changes)
    return bench.member(replace(bench.config, **{section: changed}))


def with_seed(bench: RunData, step: int) -> RunData:
    """The same data and settings under the ``step``-th seed behind the configured one."""
    return with_section(bench, "run", seed=bench.config.run.seed + step)


class Member(NamedTuple):
    """One seed: the data under it, and stage 1 as it was trained there."""

    bench: RunData
    trained: dict[str, Trained]


Members = Callable[[], list[Member]]


def train_members(bench: RunData) -> list[Member]:
    """Stage 1 under every seed of the studies."""
    study = bench.config.study
    seeded = [with_seed(bench, step) for step in range(study.seeds)]
    return [Member(one, train_stage1(one, study.methods)) for one in seeded]


def train_stage1(bench: RunData, names: Sequence[str]) -> dict[str, Trained]:
    """MiCRo's stage 1 and whatever else the named methods are built on."""
    needed = dict.fromkeys([STAGE1, *(need for name in names for need in load_method(name).after)])
    methods = [load_method(name) for name in needed if load_method(name).stage == "train"]
    return fit_methods(methods, bench.problem(adapt=False), {})
