"""Members fitted in groups, each group scored before the next one is fitted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ...common.errors import UserError
from ..adaptation import drawable_rows
from ..ensemble import by_key
from ..evaluation.metrics import attribute_sums, expected_calibration_error
from ..evaluation.protocol import ScoredMethod, TestSet
from ..fitting import attempt, fit_each, score_models
from ..methods import choose_methods, load_method
from ..methods.interface import Examples, Method, Trained
from ..run_data import RunData
from .plan import Member, largest_heads, together

Numbers = dict[str, Any]
Results = dict[str, Numbers] | UserError


def free_memory() -> float:
    """Half of the free bytes: of the first device if it tells, else of the machine."""
    memory = jax.local_devices()[0].memory_stats()
    if memory and "bytes_limit" in memory:
        return (memory["bytes_limit"] - memory["bytes_in_use"]) / 2
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def run_members(
    run_data: RunData,
    members: Sequence[Member],
    methods: Sequence[str],
    test: TestSet,
    memory: float | None = None,
    capacity: int | None = None,
) -> Iterator[tuple[list[Member], list[Results]]]:
    """Fit and score members group by group; yields each group with its members' numbers.

    Numbers are by method: accuracies, losses, and the same on validation rows where there are any.
    A member that cannot be fitted (training diverged) has the error instead. All are
    padded to ``capacity`` heads, by default the largest number of them.
    """
    chosen = choose_methods(methods)
    width, groups = run_data.features.store.width, max(len(run_data.groups), 1)
    limit = free_memory() if memory is None else memory
    capacity = largest_heads(members) if capacity is None else capacity
    for group in together(members, width, groups, limit, capacity):
        members_data = [run_data.member(member.config) for member in group]
        fitted = fit_members_of(members_data, [member.stage1 for member in group], chosen, capacity)
        yield (
            group,
            [_score(one, models, test) for one, models in zip(members_data, fitted, strict=True)],
        )


def fit_members_of(
    members_data: Sequence[RunData],
    stage1: Sequence[str],
    methods: Sequence[Method],
    capacity: int,
) -> list[dict[str, Trained] | UserError]:
    """Every method of every member in order; members of one ``stage1`` share what it says."""
    done: list[dict[str, Trained]] = [{} for _ in members_data]
    failed: dict[int, UserError] = {}
    for method in methods:
        alive = [index for index in range(len(members_data)) if index not in failed]
        # A method without labelled rows is fitted once for members that differ in stage 2 only.
        same = [[index] for index in alive]
        if method.stage == "train":
            same = [[alive[n] for n in group] for group in by_key([stage1[i] for i in alive])]
        firsts = [indices[0] for indices in same]
        results = _fit(
            method, [members_data[i] for i in firsts], [done[i] for i in firsts], capacity
        )
        for indices, result in zip(same, results, strict=True):
            for index in indices:
                if isinstance(result, UserError):
                    failed[index] = result
                else:
                    done[index][method.name] = result
    return [failed.get(index, models) for index, models in enumerate(done)]


def _fit(
    method: Method,
    members_data: Sequence[RunData],
    done: Sequence[Mapping[str, Trained]],
    capacity: int,
) -> list[Trained | UserError]:
    """Model of every member; an error instead of one whose data or training has failed."""
    results: list[Any] = [
        attempt(lambda data=data: data.problem(adapt=method.stage == "adapt"))
        for data in members_data
    ]
    possible = [index for index, one in enumerate(results) if not isinstance(one, UserError)]
    problems, before = [results[i] for i in possible], [done[i] for i in possible]
    fitted = fit_each(method, problems, before, capacity)
    for index, result in zip(possible, fitted, strict=True):
        results[index] = result
    return results


def _score(run_data: RunData, models: dict[str, Trained] | UserError, test: TestSet) -> Results:
    if isinstance(models, UserError):
        return models
    return attempt(lambda: _scores(run_data, models, test))


def _scores(run_data: RunData, models: dict[str, Trained], test: TestSet) -> dict[str, Numbers]:
    scored = score_models(run_data, {name: [model] for name, model in models.items()}, test)
    numbers = {name: _numbers(result, test) for name, (result,) in scored.items()}
    for name, trained in models.items():
        numbers[name] |= _validate(run_data, load_method(name), trained)
    return numbers


def _numbers(scored: ScoredMethod, test: TestSet) -> Numbers:
    """Accuracy per attribute and their mean, mean NLL and calibration error on the test rows."""
    correct_N = scored.mean_correct_N
    known_N = ~np.isnan(correct_N)
    sums, rows = attribute_sums(
        correct_N[known_N],
        test.prompt_N[known_N],
        test.attribute_N[known_N],
        (test.prompts, len(test.attributes)),
    )
    accuracy_A = sums.sum(axis=0) / rows.sum(axis=0)
    log_prob = scored.log_prob_SxN[scored.counts_SxN]
    return {
        "accuracy": float(accuracy_A.mean()),
        "nll": float(-log_prob.mean()),
        "ece": expected_calibration_error(np.exp(log_prob)),
        "attributes": dict(zip(test.attributes, accuracy_A.tolist(), strict=True)),
    }


def validation_rows(run_data: RunData, method: Method) -> np.ndarray:
    """Rows of validation prompts that can judge a method.

    For a method that adapts they are those that a budget could have been drawn from, had their
    prompts not been held out.
    """
    rows_N = run_data.parts.validation
    if method.stage == "train":
        return rows_N
    if run_data.config.adapt.source == "test":
        return rows_N[:0]
    return rows_N[held_out_pool(run_data)[rows_N]]


def held_out_pool(run_data: RunData) -> np.ndarray:
    """(N,) mask of pool rows of validation prompts, as ``drawable_rows`` is of training prompts."""
    parts = run_data.parts
    nobody = parts.adapt[:0]
    swapped = replace(parts, train=parts.validation, validation=parts.train, adapt=nobody)
    return drawable_rows(run_data.features.table, swapped, run_data.config.adapt)


def _validate(run_data: RunData, method: Method, trained: Trained) -> Numbers:
    rows_N = validation_rows(run_data, method)
    if not rows_N.size:
        return {}
    examples: Examples = (run_data.stage1 if method.stage == "train" else run_data.stage2)(rows_N)
    prediction = method.predict(trained, examples)
    return {
        "validation_rows": int(rows_N.size),
        "validation_nll": float(-prediction.log_prob_SxN.mean()),
        "validation_accuracy": float(
            np.mean((prediction.statistic_SxN > 0) + 0.5 * (prediction.statistic_SxN == 0))
        ),
    }
