"""Methods fitted one after the other under every training seed, and scored on one test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..common.errors import ConfigError, UserError
from .divergence import DivergenceError
from .ensemble import fit_grouped
from .evaluation.metrics import head_accuracy
from .evaluation.protocol import ScoredMethod, TestSet, attribute_indices, score
from .evaluation.report import with_best_heads
from .methods import load_method
from .methods.interface import Method, Problem, Trained
from .run_data import RunData

# A model per training seed, or a single one of a method without randomness.
Models = Mapping[str, Sequence[Trained]]


def fit_methods(
    methods: Sequence[Method],
    problems: Sequence[Problem],
    done: Models,
    left_out: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Trained]], dict[str, str]]:
    """Fit methods in order; each sees those in ``done`` and the ones before it.

    Args:
        methods: The methods; what one comes after is in ``done`` or before it.
        problems: What they learn from, one problem per training seed.
        done: Models of methods that were fitted before.
        left_out: Methods that could not be fitted before, which those after them cannot be, either.

    Returns:
        The models, and by name the reason of every method that cannot be fitted under some seed.

    Raises:
        UserError: No method can be fitted.
    """
    fitted: dict[str, list[Trained]] = {}
    failed: dict[str, str] = {}
    first: UserError | None = None
    for method in methods:
        lost = [name for name in method.after if name in {**(left_out or {}), **failed}]
        if lost:
            failed[method.name] = f"it comes after {', '.join(lost)}, which could not be fitted"
            continue
        known = {**done, **fitted}
        before = [known[name] for name in method.after]
        seeds = len(problems) if method.seeded else max(map(len, before), default=1)
        models_T = fit_each(
            method, problems[:seeds], [of_seed(known, index) for index in range(seeds)]
        )
        errors = [one for one in models_T if isinstance(one, UserError)]
        if errors:
            failed[method.name] = str(errors[0])
            first = first or errors[0]
        else:
            fitted[method.name] = [one for one in models_T if isinstance(one, Trained)]
    if first is not None and not fitted and not done:
        raise first
    return fitted, failed


def fit_each(
    method: Method,
    problems: Sequence[Problem],
    done: Sequence[Mapping[str, Trained]],
    capacity: int = 0,
) -> list[Trained | UserError]:
    """A model per problem, in one program where the method can; an error instead of one that
    cannot be had. ``capacity`` is that of ``ensemble.fit_grouped``."""
    if method.fit_many is not None:
        together = attempt(lambda: fit_grouped(method, problems, done, capacity))
        results = [together] * len(problems) if isinstance(together, UserError) else together
    else:
        results = [
            attempt(lambda member=member: method.fit(*member))
            for member in zip(problems, done, strict=True)
        ]
    return [_named(method.name, result) for result in results]


def attempt(make: Callable[[], Any]) -> Any:
    """What is made, or the error that says why not; a wrong setting is no such error."""
    try:
        return make()
    except ConfigError:
        raise
    except UserError as error:
        return error


def _named(method: str, result: Trained | UserError) -> Trained | UserError:
    """A result whose error about training names its method."""
    return DivergenceError(f"{method}: {result}") if isinstance(result, DivergenceError) else result


def of_seed(models: Models, index: int) -> dict[str, Trained]:
    """The model of every method under one training seed."""
    return {name: models_T[index if len(models_T) > 1 else 0] for name, models_T in models.items()}


def score_models(run_data: RunData, models: Models, test: TestSet) -> dict[str, list[ScoredMethod]]:
    """Every model on the test rows, and the best single heads of those that have several.

    Returns as many scored methods as there are models of each.

    Raises ``EvaluationError`` if the labelled rows leave nothing of an attribute to score.
    """
    examples = run_data.stage2(test.table_rows)
    methods = {name: load_method(name) for name in models}
    adapting = [name for name, method in methods.items() if method.stage == "adapt"]
    counts_SxN = run_data.scored_rows(test)[0] if adapting else None
    scored = {
        name: [
            score(
                method.predict(trained, examples),
                method.rule,
                counts_SxN if name in adapting else None,
            )
            for trained in models[name]
        ]
        for name, method in methods.items()
    }
    owners = [name for name, method in methods.items() if method.own_heads]
    return with_best_heads(scored, owners, test, _validation(run_data, models, owners, test))


def _validation(
    run_data: RunData, models: Models, owners: list[str], test: TestSet
) -> dict[str, list[np.ndarray]]:
    """(K, A) accuracy of every head of every owner, per seed, by test attribute, on validation rows
    in the view that test rows are scored in."""
    rows_N = run_data.parts.validation
    rows_N = rows_N[run_data.features.has(rows_N, run_data.config.views.adapt_head)]
    if not rows_N.size:
        return {}
    examples = run_data.scored_heads(rows_N)
    attribute_N = attribute_indices(run_data.features.table, rows_N, test)
    known_N = attribute_N >= 0
    accuracies: dict[str, list[np.ndarray]] = {}
    for name in owners:
        predictions = [load_method(name).predict(one, examples) for one in models[name]]
        accuracies[name] = [
            head_accuracy(
                prediction.heads.delta_NxK[known_N], attribute_N[known_N], len(test.attributes)
            )
            for prediction in predictions
            if prediction.heads is not None
        ]
    return accuracies
