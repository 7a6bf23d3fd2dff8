"""The studies that vary one number: K, the budget of labelled rows, the temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...common.errors import UserError
from ...configs.sweep import SEED
from ..adaptation import BudgetError
from ..evaluation.protocol import TestSet
from ..evaluation.rows import ORACLE, VALIDATED
from ..run_data import RunData
from ..sweeps.engine import run_members
from ..sweeps.plan import make_member
from .measure import STAGE1, Members, StudyError
from .points import best_point, curves

ACCURACY, NLL = "macro accuracy", "NLL in nats"
CHOSEN = "Test rows chose this value: it is a reading, not a setting to report."
Numbers = dict[str, dict[float, dict[str, list[float]]]]


def num_heads(bench: RunData, test: TestSet, _members: Members) -> dict[str, Any]:
    """Both stages for every K: too few heads cannot serve everybody, too many should not hurt."""
    study = bench.config.study
    found, _ = _vary(bench, test, study.num_heads, lambda count: {"train.num_heads": count})
    result = _result(bench, found, "K, reward heads", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best, last = best_point(points), points[-1]
    result["reading"] = (
        f"{study.methods[0]} is best at K = {best['x']:.0f} ({best['mean']:.3f}); K = "
        f"{points[0]['x']:.0f} gives {points[0]['mean']:.3f}, K = {last['x']:.0f} gives "
        f"{last['mean']:.3f}. {CHOSEN}"
    )
    return result


def budget(bench: RunData, test: TestSet, _members: Members) -> dict[str, Any]:
    """Adaptation with more and more labelled rows per group; stage 1 stays as it is."""
    study = bench.config.study
    budgets = [count for count in study.budgets if count <= bench.config.adapt.pool]
    if not budgets:
        raise StudyError(
            f"study.budgets: expected some of at most adapt.pool ({bench.config.adapt.pool}), "
            f"found {study.budgets}; lower them or raise adapt.pool"
        )

    def with_budget(count: float) -> dict[str, Any]:
        # As many rows for reweighting as for routing: the comparison is about their use.
        return {"adapt.budget": int(count), "baselines.hyre.rows": int(count)}

    found, missing = _vary(bench, test, budgets, with_budget, may_lack=True)
    result = _result(bench, found, f"labelled rows per {bench.config.adapt.group}", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    gain = points[-1]["mean"] - points[0]["mean"]
    halfway = next((p for p in points if p["mean"] - points[0]["mean"] >= gain / 2), points[-1])
    result["reading"] = (
        f"{study.methods[0]} goes from {points[0]['mean']:.3f} with {points[0]['x']:.0f} labelled "
        f"rows to {points[-1]['mean']:.3f} with {points[-1]['x']:.0f}; half of the gain is there "
        f"at {halfway['x']:.0f}."
    )
    if missing:
        values = ", ".join(f"{count:.0f}" for count in missing)
        result["reading"] += (
            f" Left out, because some {bench.config.adapt.group} has fewer: {values}."
        )
    return result


def tau(bench: RunData, test: TestSet, _members: Members) -> dict[str, Any]:
    """Stage 2 at every temperature of its targets: near 0 they are one head, high is no change."""
    study = bench.config.study
    found, _ = _vary(bench, test, study.taus, lambda value: {"adapt.tau": value})
    result = _result(bench, found, "tau of the Hedge targets, in nats", log=True)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best = best_point(points)
    result["reading"] = (
        f"{study.methods[0]} is best at tau = {best['x']:g} ({best['mean']:.3f}) and reaches "
        f"{points[0]['mean']:.3f} at tau = {points[0]['x']:g}. {CHOSEN}"
    )
    return result


def _vary(
    bench: RunData,
    test: TestSet,
    values: Sequence[float],
    settings: Callable[[float], dict[str, Any]],
    *,
    may_lack: bool = False,
) -> tuple[Numbers, list[float]]:
    """Every value under every seed, as one sweep.

    Raises the error of a member that failed. With ``may_lack`` values that ask for more labelled
    rows than there are, under any seed, are left out and returned, unless all do.
    """
    study, first = bench.config.study, bench.config.run.seed
    places = [(value, step) for value in values for step in range(study.seeds)]
    members = [
        make_member(bench.config, number, {**settings(value), SEED: first + step})
        for number, (value, step) in enumerate(places)
    ]
    measured: dict[int, Mapping[str, Any]] = {}
    lacking: dict[float, BudgetError] = {}
    for group, results in run_members(bench, members, [STAGE1, *study.methods], test):
        for member, numbers in zip(group, results, strict=True):
            if may_lack and isinstance(numbers, BudgetError):
                lacking[places[member.number][0]] = numbers
            elif isinstance(numbers, UserError):
                raise numbers
            else:
                measured[member.number] = numbers
    if len(lacking) == len(values):
        raise next(iter(lacking.values()))
    found = _numbers()
    for number, (value, _) in enumerate(places):
        if value not in lacking:
            _note(found, value, measured[number])
    return found, sorted(lacking)


def _numbers() -> Numbers:
    return {metric: defaultdict(lambda: defaultdict(list)) for metric in (ACCURACY, NLL)}


def _note(found: Numbers, x: float, measured: Mapping[str, Any]) -> None:
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


def _result(bench: RunData, found: Numbers, label: str, *, log: bool) -> dict[str, Any]:
    confidence = bench.config.evaluate.confidence
    return {
        "x": {"label": label, "log": log},
        "seeds": bench.config.study.seeds,
        "metrics": {metric: curves(rows, confidence) for metric, rows in found.items()},
    }
