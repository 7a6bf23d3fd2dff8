"""Which rows are scored, and everything that is known about them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ... import UserError
from ...cache.pairs import PairTable
from ..methods.interface import Prediction, Trained
from ..training import Rows
from .metrics import correctness, decision_statistic, head_accuracy, is_tie, mixture_log_prob


class EvaluationError(UserError):
    """The data cannot be scored as asked; the message says which attribute and what to do."""


@dataclass(frozen=True)
class TestSet:
    """Held-out rows with their labels as numbers: attribute in ``attributes``, prompt 0..P-1."""

    table_rows: np.ndarray
    attribute_N: np.ndarray
    prompt_N: np.ndarray
    attributes: tuple[str, ...]
    prompts: int


@dataclass(frozen=True)
class Scored:
    """One method on the test set: everything per draw (S, N) or per row."""

    prediction: Prediction
    rule: str
    log_prob_SxN: np.ndarray
    correct_SxN: np.ndarray
    tie_SxN: np.ndarray


def make_test_set(table: PairTable, test_rows: np.ndarray) -> TestSet:
    """The test rows of a pair table.

    Raises ``EvaluationError`` if there are none, or if an attribute that is trained on has none.
    """
    if test_rows.size == 0:
        raise EvaluationError(
            f"data set {table.name!r} has no test rows; give a test file (--data.test), a split "
            "column, or raise data.test_fraction"
        )
    attribute = np.asarray(table.text["attribute"])
    names = list(dict.fromkeys(attribute[test_rows].tolist()))
    missing = sorted(set(attribute.tolist()) - set(names))
    if missing:
        counts = ", ".join(f"{name!r} ({int((attribute == name).sum())} rows)" for name in missing)
        raise EvaluationError(
            f"no test rows for attribute {counts}; add test rows, or leave the attribute out "
            "with data.attributes"
        )
    numbers = {name: number for number, name in enumerate(names)}
    _, prompt_N = np.unique(np.asarray(table.text["prompt_id"])[test_rows], return_inverse=True)
    return TestSet(
        table_rows=test_rows,
        attribute_N=np.array([numbers[name] for name in attribute[test_rows]]),
        prompt_N=prompt_N,
        attributes=tuple(name or "(none)" for name in names),
        prompts=int(prompt_N.max()) + 1,
    )


def validation_accuracies(
    models: Mapping[str, Trained],
    rows: Rows,
    table: PairTable,
    table_rows: np.ndarray,
    test: TestSet,
) -> dict[str, np.ndarray]:
    """(K, A) accuracy of every head of every model on validation rows, by test attribute."""
    numbers = {name: number for number, name in enumerate(test.attributes)}
    names = [table.text["attribute"][row] or "(none)" for row in table_rows]
    known = [place for place, name in enumerate(names) if name in numbers]
    attribute_N = np.array([numbers[names[place]] for place in known], np.int64)
    return {
        name: head_accuracy(
            trained.predict(rows).delta_NxK[known], attribute_N, len(test.attributes)
        )
        for name, trained in models.items()
    }


def score(models: Mapping[str, Trained], rules: Mapping[str, str], rows: Rows) -> dict[str, Scored]:
    """Every model on the same test rows, each under its own rule."""
    scored = {}
    for name, trained in models.items():
        prediction = trained.predict(rows)
        statistic = decision_statistic(rules[name], *prediction)
        scored[name] = Scored(
            prediction=prediction,
            rule=rules[name],
            log_prob_SxN=mixture_log_prob(*prediction),
            correct_SxN=correctness(statistic),
            tie_SxN=is_tie(statistic),
        )
    return scored
