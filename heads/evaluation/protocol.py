"""The test set, and the predictions of a method scored on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...cache.pairs import PairTable
from ...common.errors import UserError
from ..methods.interface import HeadOutputs, Prediction
from .metrics import correctness, is_tie, log_sigmoid


class EvaluationError(UserError):
    """The test rows cannot be scored; the message names the attribute and the remedy."""


@dataclass(frozen=True)
class TestSet:
    """Held-out rows of a pair table, with their attributes and prompts as indices.

    Attributes:
        table_rows: Rows of the pair table, (N,).
        attribute_N: Index of every row's attribute in ``attributes``.
        prompt_N: Index of every row's prompt, 0 to P - 1.
        attributes: Names of the attributes, in order of first appearance.
        prompts: P, the number of distinct prompts.
        wording_N: Index of every row's context; rows with the same text share one. None if any
            row has no context.
        user_N: Index of every row's person. None if any row names none.
    """

    table_rows: np.ndarray
    attribute_N: np.ndarray
    prompt_N: np.ndarray
    attributes: tuple[str, ...]
    prompts: int
    wording_N: np.ndarray | None = None
    user_N: np.ndarray | None = None


@dataclass(frozen=True)
class ScoredMethod:
    """A method's decisions on the test set, for each of S draws of the labelled rows.

    Attributes:
        rule: Decision rule, ``"R1"`` or ``"R2"``; see ``metrics.decision_statistic``.
        correct_SxN: 1, 0, or 0.5 for a tie.
        tie_SxN: Where neither response wins.
        log_prob_SxN: Log probability of the observed label, nats.
        counts_SxN: Rows that are scored; False where a draw has adapted to the row.
        heads: Margins and router weights; None for a method without heads.
    """

    rule: str
    correct_SxN: np.ndarray
    tie_SxN: np.ndarray
    log_prob_SxN: np.ndarray
    counts_SxN: np.ndarray
    heads: HeadOutputs | None

    @property
    def scored_SxN(self) -> np.ndarray:
        """Correctness, NaN where a draw does not score a row."""
        return np.where(self.counts_SxN, self.correct_SxN, np.nan)

    @property
    def mean_correct_N(self) -> np.ndarray:
        """Mean correctness of each row over the draws that score it; NaN where none does."""
        draws_N = self.counts_SxN.sum(axis=0)
        sums_N = np.where(self.counts_SxN, self.correct_SxN, 0.0).sum(axis=0)
        return np.divide(sums_N, draws_N, out=np.full(draws_N.shape, np.nan), where=draws_N > 0)


def make_test_set(table: PairTable, test_rows: np.ndarray, *, transfer: bool = False) -> TestSet:
    """Index the attributes, prompts and wordings of the test rows of a pair table.

    Args:
        table: The pair table.
        test_rows: Rows of the table to score.
        transfer: Whether the test attributes may differ from those of the training rows.

    Raises:
        EvaluationError: There are no test rows, or an attribute has training rows and no test
            rows although ``transfer`` is False.
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
    text = {name: np.asarray(table.text[name]) for name in ("prompt_id", "context", "user")}
    return index_rows({**text, "attribute": attribute}, test_rows)


def index_rows(text: Mapping[str, np.ndarray], rows: np.ndarray) -> TestSet:
    """The test set of some rows of a table, whose columns are texts.

    ``text`` has the columns attribute, prompt_id, context and user.
    """
    attribute = text["attribute"][rows]
    index_of = {name: index for index, name in enumerate(dict.fromkeys(attribute.tolist()))}
    _, prompt_N = np.unique(text["prompt_id"][rows], return_inverse=True)
    return TestSet(
        table_rows=rows,
        attribute_N=np.array([index_of[name] for name in attribute]),
        prompt_N=prompt_N,
        attributes=tuple(name or "(none)" for name in index_of),
        prompts=int(prompt_N.max()) + 1,
        wording_N=_numbers(text["context"][rows]),
        user_N=_numbers(text["user"][rows]),
    )


def _numbers(label_N: np.ndarray) -> np.ndarray | None:
    """Index of every label, None if any is empty."""
    return np.unique(label_N, return_inverse=True)[1] if (label_N != "").all() else None


def attribute_indices(table: PairTable, table_rows: np.ndarray, test: TestSet) -> np.ndarray:
    """Index of each row's attribute in ``test.attributes``, (N,); -1 if the test set lacks it."""
    index_of = {name: index for index, name in enumerate(test.attributes)}
    names = np.asarray(table.text["attribute"])[table_rows].tolist()
    return np.array([index_of.get(name or "(none)", -1) for name in names], np.int64)


def score(prediction: Prediction, rule: str, counts_SxN: np.ndarray | None = None) -> ScoredMethod:
    """Score a prediction of the test rows.

    Args:
        prediction: Decision statistics and log probabilities, (S, N).
        rule: Decision rule behind the statistics.
        counts_SxN: Rows that are scored in each draw; None scores all rows.
    """
    statistic_SxN = prediction.statistic_SxN
    # A method without draws has adapted to no row: the mask of the draws is not about it.
    if counts_SxN is None or counts_SxN.shape[0] != statistic_SxN.shape[0]:
        counts_SxN = np.ones(statistic_SxN.shape, bool)
    return ScoredMethod(
        rule=rule,
        correct_SxN=correctness(statistic_SxN),
        tie_SxN=is_tie(statistic_SxN),
        log_prob_SxN=prediction.log_prob_SxN,
        counts_SxN=counts_SxN,
        heads=prediction.heads,
    )


def score_best_heads(heads: HeadOutputs, test: TestSet, select_KxA: np.ndarray) -> ScoredMethod:
    """Score the best single head of each attribute, as if the attribute were known at test time.

    Args:
        heads: Margins of all heads on the test rows.
        test: The test set.
        select_KxA: Accuracies to select heads by. Accuracies on the test rows themselves make the
            result an oracle: an upper bound, not a result. An attribute that is NaN for all heads
            falls back to head 0.
    """
    best_A = np.argmax(np.nan_to_num(select_KxA, nan=-1.0), axis=0)
    rows_N = np.arange(test.attribute_N.size)
    margin_1xN = heads.delta_NxK[rows_N, best_A[test.attribute_N]][None].astype(np.float64)
    return score(Prediction(margin_1xN, log_sigmoid(margin_1xN)), "R2")
