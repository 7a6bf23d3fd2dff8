"""Studies that vary one setting: the number of heads, the budget, the temperature."""

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
from .measure import STAGE1, SeedRuns, StudyError
from .points import best_point, curves

ACCURACY, NLL = "macro accuracy", "NLL in nats"
SELECTION_CAVEAT = "Test rows chose this value: it is a reading, not a setting to report."
# {metric: {x: {series: [one value per seed]}}}
StudyValues = dict[str, dict[float, dict[str, list[float]]]]


def num_heads(data: RunData, test: TestSet, _seed_runs: SeedRuns) -> dict[str, Any]:
    """Vary K, the number of heads, in both stages.

    Too few heads cannot serve all groups; more than needed should do no harm.
    """
    study = data.config.study
    values, _ = _run_values(data, test, study.num_heads, lambda count: {"train.num_heads": count})
    result = _study_result(data, values, "K, reward heads", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best, last = best_point(points), points[-1]
    result["reading"] = (
        f"{study.methods[0]} is best at K = {best['x']:.0f} ({best['mean']:.3f}); K = "
        f"{points[0]['x']:.0f} gives {points[0]['mean']:.3f}, K = {last['x']:.0f} gives "
        f"{last['mean']:.3f}. {SELECTION_CAVEAT}"
    )
    return result


def budget(data: RunData, test: TestSet, _seed_runs: SeedRuns) -> dict[str, Any]:
    """Vary the number of labelled rows per group for adaptation; stage 1 stays the same."""
    study = data.config.study
    budgets = [count for count in study.budgets if count <= data.config.adapt.pool]
    if not budgets:
        raise StudyError(
            f"study.budgets: expected some of at most adapt.pool ({data.config.adapt.pool}), "
            f"found {study.budgets}; lower them or raise adapt.pool"
        )

    def with_budget(count: float) -> dict[str, Any]:
        # Reweighting and routing get equally many rows, so that only their use of them differs.
        return {"adapt.budget": int(count), "baselines.hyre.rows": int(count)}

    values, missing = _run_values(data, test, budgets, with_budget, skip_short_budgets=True)
    result = _study_result(data, values, f"labelled rows per {data.config.adapt.group}", log=False)
    points = result["metrics"][ACCURACY][study.methods[0]]
    gain = points[-1]["mean"] - points[0]["mean"]
    halfway = next((p for p in points if p["mean"] - points[0]["mean"] >= gain / 2), points[-1])
    result["reading"] = (
        f"{study.methods[0]} goes from {points[0]['mean']:.3f} with {points[0]['x']:.0f} labelled "
        f"rows to {points[-1]['mean']:.3f} with {points[-1]['x']:.0f}; half of the gain is there "
        f"at {halfway['x']:.0f}."
    )
    if missing:
        listed = ", ".join(f"{count:.0f}" for count in missing)
        result["reading"] += (
            f" Left out, because some {data.config.adapt.group} has fewer: {listed}."
        )
    return result


def tau(data: RunData, test: TestSet, _seed_runs: SeedRuns) -> dict[str, Any]:
    """Vary the temperature of the Hedge targets in stage 2.

    Near 0 a target is a single head; at high temperature it is the prior, which changes nothing.
    """
    study = data.config.study
    values, _ = _run_values(data, test, study.taus, lambda value: {"adapt.tau": value})
    result = _study_result(data, values, "tau of the Hedge targets, in nats", log=True)
    points = result["metrics"][ACCURACY][study.methods[0]]
    best = best_point(points)
    result["reading"] = (
        f"{study.methods[0]} is best at tau = {best['x']:g} ({best['mean']:.3f}) and reaches "
        f"{points[0]['mean']:.3f} at tau = {points[0]['x']:g}. {SELECTION_CAVEAT}"
    )
    return result


def _run_values(
    data: RunData,
    test: TestSet,
    values: Sequence[float],
    settings: Callable[[float], dict[str, Any]],
    *,
    skip_short_budgets: bool = False,
) -> tuple[StudyValues, list[float]]:
    """Measure every value of a setting under every seed, as members of one sweep.

    Args:
        data: Data and settings that the members share.
        test: The test set.
        values: Values of the setting.
        settings: Configuration keys that a value sets.
        skip_short_budgets: Whether to leave out values that ask for more labelled rows than some
            group has under any seed, unless that leaves none.

    Returns:
        The measurements, and the values left out, ascending.

    Raises:
        UserError: A member failed.
    """
    study, first = data.config.study, data.config.run.seed
    grid = [(value, step) for value in values for step in range(study.seeds)]
    members = [
        make_member(data.config, number, {**settings(value), SEED: first + step})
        for number, (value, step) in enumerate(grid)
    ]
    measured: dict[int, Mapping[str, Any]] = {}
    short_budgets: dict[float, BudgetError] = {}
    for group, results in run_members(data, members, [STAGE1, *study.methods], test):
        for member, numbers in zip(group, results, strict=True):
            if skip_short_budgets and isinstance(numbers, BudgetError):
                short_budgets[grid[member.number][0]] = numbers
            elif isinstance(numbers, UserError):
                raise numbers
            else:
                measured[member.number] = numbers
    if len(short_budgets) == len(values):
        raise next(iter(short_budgets.values()))
    collected = _empty_values()
    for number, (value, _) in enumerate(grid):
        if value not in short_budgets:
            _append_seed(collected, value, measured[number])
    return collected, sorted(short_budgets)


def _empty_values() -> StudyValues:
    return {metric: defaultdict(lambda: defaultdict(list)) for metric in (ACCURACY, NLL)}


def _append_seed(collected: StudyValues, x: float, measured: Mapping[str, Any]) -> None:
    """Append the measurements of one seed at x.

    Of best single heads only those of stage 1 are kept, and only their accuracy: their NLL is that
    of one head and not comparable.
    """
    best_heads = {
        STAGE1 + VALIDATED: "best head, validated",
        STAGE1 + ORACLE: "best head, oracle",
    }
    for name, values in measured.items():
        if name in best_heads:
            collected[ACCURACY][x][best_heads[name]].append(values["accuracy"])
        elif not name.endswith((ORACLE, VALIDATED)):
            collected[ACCURACY][x][name].append(values["accuracy"])
            collected[NLL][x][name].append(values["nll"])


def _study_result(data: RunData, values: StudyValues, label: str, *, log: bool) -> dict[str, Any]:
    confidence = data.config.evaluate.confidence
    return {
        "x": {"label": label, "log": log},
        "seeds": data.config.study.seeds,
        "metrics": {metric: curves(rows, confidence) for metric, rows in values.items()},
    }
