"""The studies that vary one number: K, the budget of labelled rows, the temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..evaluation.protocol import TestSet
from ..evaluation.report import ORACLE, VALIDATED
from ..workbench import Workbench
from .measure import (
    STAGE1,
    Members,
    StudyError,
    adapt_all,
    measure,
    train_stage1,
    with_section,
    with_seed,
)
from .points import best_point, curves

ACCURACY, NLL = "macro accuracy", "NLL in nats"
CHOSEN = "Test rows chose this value: it is a reading, not a setting to report."
Numbers = dict[str, dict[float, dict[str, list[float]]]]


def num_heads(bench: Workbench, test: TestSet, _members: Members) -> dict[str, Any]:
    """Both stages for every K: too few heads cannot serve everybody, too many should not hurt."""
    study = bench.config.study
    found = _numbers()
    for step in range(study.seeds):
        for count in study.num_heads:
            member = with_section(with_seed(bench, step), "train", num_heads=count)
            trained = train_stage1(member, study.methods)
            adapted = adapt_all(member, study.methods, trained)
            _note(found, count, measure(member, {**trained, **adapted}, test))
    result = _result(bench, found, "K, reward heads", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best, last = best_point(points), points[-1]
    result["reading"] = (
        f"{study.methods[0]} is best at K = {best['x']:.0f} ({best['mean']:.3f}); K = "
        f"{points[0]['x']:.0f} gives {points[0]['mean']:.3f}, K = {last['x']:.0f} gives "
        f"{last['mean']:.3f}. {CHOSEN}"
    )
    return result


def budget(bench: Workbench, test: TestSet, members: Members) -> dict[str, Any]:
    """Adaptation with more and more labelled rows per group; stage 1 stays as it is."""
    study = bench.config.study
    budgets = [count for count in study.budgets if count <= bench.config.adapt.pool]
    if not budgets:
        raise StudyError(
            f"study.budgets: expected some of at most adapt.pool ({bench.config.adapt.pool}), "
            f"found {study.budgets}; lower them or raise adapt.pool"
        )

    def with_budget(seeded: Workbench, count: float) -> Workbench:
        # As many rows for reweighting as for routing: the comparison is about their use.
        hyre = replace(seeded.config.baselines.hyre, rows=int(count))
        member = with_section(seeded, "adapt", budget=int(count))
        return with_section(member, "baselines", hyre=hyre)

    found = _vary_adaptation(bench, test, members, budgets, with_budget)
    result = _result(bench, found, f"labelled rows per {bench.config.adapt.group}", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    gain = points[-1]["mean"] - points[0]["mean"]
    halfway = next((p for p in points if p["mean"] - points[0]["mean"] >= gain / 2), points[-1])
    result["reading"] = (
        f"{study.methods[0]} goes from {points[0]['mean']:.3f} with {points[0]['x']:.0f} labelled "
        f"rows to {points[-1]['mean']:.3f} with {points[-1]['x']:.0f}; half of the gain is there "
        f"at {halfway['x']:.0f}."
    )
    return result


def tau(bench: Workbench, test: TestSet, members: Members) -> dict[str, Any]:
    """Stage 2 at every temperature of its targets: near 0 they are one head, high is no change."""
    study = bench.config.study
    found = _vary_adaptation(
        bench, test, members, study.taus, lambda one, value: with_section(one, "adapt", tau=value)
    )
    result = _result(bench, found, "tau of the Hedge targets, in nats", log=True)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best = best_point(points)
    result["reading"] = (
        f"{study.methods[0]} is best at tau = {best['x']:g} ({best['mean']:.3f}) and reaches "
        f"{points[0]['mean']:.3f} at tau = {points[0]['x']:g}. {CHOSEN}"
    )
    return result


def _vary_adaptation(
    bench: Workbench,
    test: TestSet,
    members: Members,
    values: Sequence[float],
    change: Callable[[Workbench, float], Workbench],
) -> Numbers:
    """Every value under every seed, on stage 1 as it was trained once per seed."""
    methods = bench.config.study.methods
    found = _numbers()
    for seeded, trained in members():
        for value in values:
            member = change(seeded, value)
            adapted = adapt_all(member, methods, trained)
            _note(found, value, measure(member, {**trained, **adapted}, test))
    return found


def _numbers() -> Numbers:
    return {metric: defaultdict(lambda: defaultdict(list)) for metric in (ACCURACY, NLL)}


def _note(found: Numbers, x: float, measured: dict[str, dict[str, float]]) -> None:
    """Add one seed's numbers; the best heads of stage 1 have an accuracy and no NLL to compare."""
    best_heads = {
        STAGE1 + VALIDATED: "best head, validated",
        STAGE1 + ORACLE: "best head, oracle",
    }
    for name, values in measured.items():
        if name in best_heads:
            found[ACCURACY][x][best_heads[name]].append(values["accuracy"])
        elif not name.endswith((ORACLE, VALIDATED)):
            found[ACCURACY][x][name].append(values["accuracy"])
            found[NLL][x][name].append(values["nll"])


def _result(bench: Workbench, found: Numbers, label: str, *, log: bool) -> dict[str, Any]:
    confidence = bench.config.evaluate.confidence
    return {
        "x": {"label": label, "log": log},
        "seeds": bench.config.study.seeds,
        "metrics": {metric: curves(rows, confidence) for metric, rows in found.items()},
    }
