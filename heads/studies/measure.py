"""One setting and seed, fitted and scored: the unit that every sweep is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ... import UserError
from ..evaluation.protocol import TestSet
from ..evaluation.report import build_report
from ..fitting import fit_methods, score_models
from ..methods import load_method
from ..methods.interface import Trained
from ..workbench import Workbench

STAGE1 = "micro_stage1"


class StudyError(UserError):
    """A study cannot be made of these data; the message says what to change."""


def with_section(bench: Workbench, section: str, **changes: Any) -> Workbench:
    """The same data under another setting of one section."""
    changed = replace(getattr(bench.config, section), **changes)
    return bench.member(replace(bench.config, **{section: changed}))


def with_seed(bench: Workbench, step: int) -> Workbench:
    """The same data and settings under the ``step``-th seed behind the configured one."""
    return with_section(bench, "run", seed=bench.config.run.seed + step)


class Member(NamedTuple):
    """One seed: the data under it, and stage 1 as it was trained there."""

    bench: Workbench
    trained: dict[str, Trained]


Members = Callable[[], list[Member]]


def train_members(bench: Workbench) -> list[Member]:
    """Stage 1 under every seed of the studies."""
    study = bench.config.study
    seeded = [with_seed(bench, step) for step in range(study.seeds)]
    return [Member(one, train_stage1(one, study.methods)) for one in seeded]


def train_stage1(bench: Workbench, names: Sequence[str]) -> dict[str, Trained]:
    """MiCRo's stage 1 and whatever else the named methods are built on."""
    needed = dict.fromkeys([STAGE1, *(need for name in names for need in load_method(name).after)])
    methods = [load_method(name) for name in needed if load_method(name).stage == "train"]
    return fit_methods(methods, bench.problem(adapt=False), {})


def adapt_all(
    bench: Workbench, names: Sequence[str], trained: Mapping[str, Trained]
) -> dict[str, Trained]:
    """The named methods, adapted."""
    return fit_methods([load_method(name) for name in names], bench.problem(adapt=True), trained)


def measure(
    bench: Workbench, models: Mapping[str, Trained], test: TestSet
) -> dict[str, dict[str, float]]:
    """Macro accuracy and mean NLL of every model, and of its best single heads, on the test set."""
    config = replace(bench.config.evaluate, bootstrap=1)
    report = build_report("", test, score_models(bench, models, test), config, seed=0)
    return {
        name: {"accuracy": entry["macro"]["accuracy"], "nll": entry["nll"]}
        for name, entry in report["methods"].items()
    }
