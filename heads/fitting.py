"""Methods fitted one after the other, and scored on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .adaptation import scored_mask
from .divergence import named
from .evaluation.metrics import head_accuracy
from .evaluation.protocol import EvaluationError, ScoredMethod, TestSet, attribute_indices, score
from .evaluation.report import with_best_heads
from .methods import load_method
from .methods.interface import Method, Problem, Trained
from .run_data import RunData


def fit_methods(
    methods: Sequence[Method], problem: Problem, done: Mapping[str, Trained]
) -> dict[str, Trained]:
    """Fit methods in order; each sees those in ``done`` and the ones before it."""
    fitted: dict[str, Trained] = {}
    for method in methods:
        with named(method.name):
            fitted[method.name] = method.fit(problem, {**done, **fitted})
    return fitted


def score_models(
    run_data: RunData, models: Mapping[str, Trained], test: TestSet
) -> dict[str, ScoredMethod]:
    """Every model on the test rows, and the best single heads of those that have several.

    Raises ``EvaluationError`` if the labelled rows leave nothing of an attribute to score.
    """
    examples = run_data.stage2(test.table_rows)
    methods = {name: load_method(name) for name in models}
    adapting = [name for name, method in methods.items() if method.stage == "adapt"]
    counts_SxN = None
    if adapting and run_data.config.adapt.source == "test":
        counts_SxN = scored_mask(run_data.draws, test.table_rows)
        _require_rows(counts_SxN, test)
    scored = {
        name: score(
            method.predict(models[name], examples),
            method.rule,
            counts_SxN if name in adapting else None,
        )
        for name, method in methods.items()
    }
    owners = [name for name, method in methods.items() if method.own_heads]
    return with_best_heads(scored, owners, test, _validation(run_data, models, owners, test))


def _require_rows(counts_SxN: np.ndarray, test: TestSet) -> None:
    for number, name in enumerate(test.attributes):
        if not counts_SxN[:, test.attribute_N == number].any(axis=1).all():
            raise EvaluationError(
                f"adapt.budget takes every test row of attribute {name!r}; lower it, or set "
                "adapt.source=train"
            )


def _validation(
    run_data: RunData, models: Mapping[str, Trained], owners: list[str], test: TestSet
) -> dict[str, np.ndarray]:
    """(K, A) accuracy of every head of every owner on validation rows, by test attribute."""
    rows_N = run_data.parts.validation
    if not rows_N.size:
        return {}
    examples = run_data.stage1(rows_N)
    attribute_N = attribute_indices(run_data.features.table, rows_N, test)
    known_N = attribute_N >= 0
    accuracies = {}
    for name in owners:
        heads = load_method(name).predict(models[name], examples).heads
        if heads is not None:
            accuracies[name] = head_accuracy(
                heads.delta_NxK[known_N], attribute_N[known_N], len(test.attributes)
            )
    return accuracies
