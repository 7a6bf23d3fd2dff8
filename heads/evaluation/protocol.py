"""Which rows are scored, and everything that is known about them afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cache.pairs import PairTable
from ...common.errors import UserError
from ..methods.interface import HeadOutputs, Prediction
from .metrics import correctness, is_tie, log_sigmoid


class EvaluationError(UserError):
    """The data cannot be scored as asked; the message says which attribute and what to do."""


@dataclass(frozen=True)
class TestSet:
    """Held-out rows with their labels as numbers: attribute in ``attributes``, prompt 0..P-1.

    Rows of one ``wording_N`` number state the same wish; None if any row states none.
    """

    table_rows: np.ndarray
    attribute_N: np.ndarray
    prompt_N: np.ndarray
    attributes: tuple[str, ...]
    prompts: int
    wording_N: np.ndarray | None = None


@dataclass(frozen=True)
class Scored:
    """One method on the test set, per draw (S, N). Only rows of ``counts_SxN`` are scored.

    ``counts_SxN`` is False for rows that a draw has adapted to.
    """

    rule: str
    correct_SxN: np.ndarray
    tie_SxN: np.ndarray
    log_prob_SxN: np.ndarray
    counts_SxN: np.ndarray
    heads: HeadOutputs | None

    @property
    def mean_correct_N(self) -> np.ndarray:
        """Correctness of every row over the draws that score it; NaN where none does."""
        draws_N = self.counts_SxN.sum(axis=0)
        sums_N = np.where(self.counts_SxN, self.correct_SxN, 0.0).sum(axis=0)
        return np.divide(sums_N, draws_N, out=np.full(draws_N.shape, np.nan), where=draws_N > 0)


def make_test_set(table: PairTable, test_rows: np.ndarray, *, transfer: bool = False) -> TestSet:
    """The test rows of a pair table.

    Raises ``EvaluationError`` if there are none, or if an attribute that is trained on has none;
    with ``transfer`` the attributes of the test rows may be others.
    """
    if test_rows.size == 0:
        raise EvaluationError(
            f"data set {table.name!r} has no test rows; give a test file (--data.test), a split "
            "column, or raise data.test_fraction"
        )
    attribute = np.asarray(table.text["attribute"])
    names = list(dict.fromkeys(attribute[test_rows].tolist()))
    missing = sorted(set(attribute.tolist()) - set(names))
    if missing and not transfer:
        counts = ", ".join(f"{name!r} ({int((attribute == name).sum())} rows)" for name in missing)
        raise EvaluationError(
            f"no test rows for attribute {counts}; add test rows, or leave the attribute out "
            "with data.attributes"
        )
    numbers = {name: number for number, name in enumerate(names)}
    _, prompt_N = np.unique(np.asarray(table.text["prompt_id"])[test_rows], return_inverse=True)
    wishes = np.asarray(table.text["context"])[test_rows]
    return TestSet(
        table_rows=test_rows,
        attribute_N=np.array([numbers[name] for name in attribute[test_rows]]),
        prompt_N=prompt_N,
        attributes=tuple(name or "(none)" for name in names),
        prompts=int(prompt_N.max()) + 1,
        wording_N=np.unique(wishes, return_inverse=True)[1] if (wishes != "").all() else None,
    )


def attribute_places(table: PairTable, table_rows: np.ndarray, test: TestSet) -> np.ndarray:
    """(N,) number of each row's attribute among those of the test set, -1 if it is none of them."""
    numbers = {name: number for number, name in enumerate(test.attributes)}
    names = np.asarray(table.text["attribute"])[table_rows].tolist()
    return np.array([numbers.get(name or "(none)", -1) for name in names], np.int64)


def score(prediction: Prediction, rule: str, counts_SxN: np.ndarray | None = None) -> Scored:
    """A prediction of the test rows, judged; all rows count unless told otherwise."""
    statistic_SxN = prediction.statistic_SxN
    if counts_SxN is None or counts_SxN.shape[0] != statistic_SxN.shape[0]:
        counts_SxN = np.ones(statistic_SxN.shape, bool)
    return Scored(
        rule=rule,
        correct_SxN=correctness(statistic_SxN),
        tie_SxN=is_tie(statistic_SxN),
        log_prob_SxN=prediction.log_prob_SxN,
        counts_SxN=counts_SxN,
        heads=prediction.heads,
    )


def score_best_heads(heads: HeadOutputs, test: TestSet, select_KxA: np.ndarray) -> Scored:
    """One head per attribute, the one that is best by ``select_KxA``, alone.

    Selecting by accuracies on the test rows themselves makes an oracle. An attribute that the
    selecting rows lack (NaN) falls back to head 0.
    """
    chosen_A = np.argmax(np.nan_to_num(select_KxA, nan=-1.0), axis=0)
    rows_N = np.arange(test.attribute_N.size)
    margin_1xN = heads.delta_NxK[rows_N, chosen_A[test.attribute_N]][None].astype(np.float64)
    return score(Prediction(margin_1xN, log_sigmoid(margin_1xN)), "R2")
