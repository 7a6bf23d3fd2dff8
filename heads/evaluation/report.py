"""Build ``report.json`` from scored test rows: every accuracy with its count and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...configs.schema import EvaluateConfig
from ..methods.interface import HeadOutputs
from . import metrics
from .comparisons import comparisons
from .diagnostics import diagnose
from .inference import accuracy_interval
from .protocol import ScoredMethod, TestSet, score_best_heads
from .rows import ORACLE, VALIDATED, owner_of
from .units import sampled_units
from .variance import infer, macro_mean, row_means

# Accuracy above chance from which a head is named after the attribute it is best at.
NAMING_MARGIN = 0.05
# Per method a scored model per training seed, or a single one.
Scored = Mapping[str, Sequence[ScoredMethod]]


def with_best_heads(
    scored: Scored,
    owners: list[str],
    test: TestSet,
    validation: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, list[ScoredMethod]]:
    """Add the best single heads of every method that trained several.

    Args:
        scored: Scored methods by name, each under every seed.
        owners: Methods that trained heads of their own, not only a router.
        test: The test set.
        validation: Head accuracies on validation rows, (K, A) per seed, by owner; owners without
            validation rows get no validated row.

    Returns:
        ``scored`` followed by the validated and the oracle row of each owner.
    """
    result = {name: list(seeds) for name, seeds in scored.items()}
    for name in owners:
        heads_T = [one.heads for one in scored[name] if one.heads is not None]
        if not heads_T or heads_T[0].delta_NxK.shape[1] == 1:
            continue
        if name in validation:
            result[name + VALIDATED] = [
                score_best_heads(heads, test, accuracy_KxA)
                for heads, accuracy_KxA in zip(heads_T, validation[name], strict=True)
            ]
        result[name + ORACLE] = [
            score_best_heads(
                heads,
                test,
                metrics.head_accuracy(heads.delta_NxK, test.attribute_N, len(test.attributes)),
            )
            for heads in heads_T
        ]
    return result


def best_head_summary(name: str) -> str:
    """Describe a best-head row in one sentence."""
    if name.endswith(ORACLE):
        return (
            f"The head of {owner_of(name)} that is best on these very rows: a bound, not a result."
        )
    return f"The head of {owner_of(name)} that is best on validation rows of the attribute, alone."


def build_report(
    dataset: str,
    test: TestSet,
    scored: Scored,
    given: Mapping[str, str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Compute the numbers of ``report.json``: methods, heads, router weights, comparisons.

    Values are means over training seeds and draws. ``docs/statistics.md`` says how intervals and
    p-values are made.

    Args:
        dataset: Name of the data set.
        test: The test set.
        scored: Scored methods by name, each under every seed.
        given: What each method is given at test time beside the texts of a row.
        config: Confidence level, and what is compared with what.
    """
    return {
        "dataset": dataset,
        "test": {"rows": int(test.table_rows.size), "prompts": test.prompts},
        "methods": {
            name: _method(seeds, test, given[name], config.confidence)
            for name, seeds in scored.items()
        },
        "comparisons": comparisons(
            {name: correct_over(seeds) for name, seeds in scored.items()}, test, given, config
        ),
        "heads": {
            name: _heads(seeds[0].heads, test)
            for name, seeds in scored.items()
            if seeds[0].heads is not None
        },
    }


def correct_over(seeds: Sequence[ScoredMethod]) -> np.ndarray:
    """(T, S, N) correctness of a method over seeds, draws and rows; NaN where it is not scored."""
    return np.stack([one.scored_SxN for one in seeds])


def accuracies(
    correct_TxSxN: np.ndarray, test: TestSet, confidence: float, *, reads_context: bool
) -> dict[str, Any]:
    """Macro accuracy and accuracy per attribute with their intervals, and what was sampled.

    Args:
        correct_TxSxN: Correctness in [0, 1] per seed, draw and row; NaN where it is not scored.
        test: The test set.
        confidence: Coverage of the intervals.
        reads_context: Whether the method reads contexts, so that their wordings are sampled.
    """
    units = sampled_units(test, reads_context=reads_context)
    scored_N = ~np.isnan(correct_TxSxN).all(axis=(0, 1))
    combined_N = np.unique(np.stack(list(units.values())), axis=1, return_inverse=True)[1].ravel()
    attributes, independent_A = {}, []
    for index, name in enumerate(test.attributes):
        own_N = (test.attribute_N == index) & scored_N
        independent_A.append(np.unique(combined_N[own_N]).size)
        attributes[name] = {
            **_accuracy(
                correct_TxSxN[..., own_N],
                test.attribute_N[own_N],
                [unit_N[own_N] for unit_N in units.values()],
                independent_A[-1],
                confidence,
            ),
            "n": int(own_N.sum()),
        }
    # As many rows would give a mean over attributes the same binomial variance.
    independent = len(independent_A) ** 2 / np.sum(1 / np.array(independent_A))
    macro = _accuracy(
        correct_TxSxN, test.attribute_N, list(units.values()), independent, confidence
    )
    return {"macro": macro, "attributes": attributes, "units": list(units)}


def _accuracy(
    correct_TxSxN: np.ndarray,
    attribute_N: np.ndarray,
    units: Sequence[np.ndarray],
    independent_rows: float,
    confidence: float,
) -> dict[str, Any]:
    """An accuracy with its interval; ``few`` if there are too few units to have one."""
    estimate = infer(correct_TxSxN, attribute_N, units)
    low, high = accuracy_interval(estimate, independent_rows, confidence)
    return {"accuracy": estimate.value, "low": low, "high": high, "few": estimate.freedom == 0}


def _method(
    seeds: Sequence[ScoredMethod], test: TestSet, given: str, confidence: float
) -> dict[str, Any]:
    """The report entry of a method."""
    correct_TxSxN = correct_over(seeds)
    entry = accuracies(correct_TxSxN, test, confidence, reads_context=given == "context")
    tied_N = np.any([(one.tie_SxN & one.counts_SxN).any(axis=0) for one in seeds], axis=0)
    ties_A = np.bincount(test.attribute_N, tied_N, len(test.attributes))
    for cell, ties in zip(entry["attributes"].values(), ties_A, strict=True):
        cell["ties"] = int(ties)
    log_prob = np.concatenate([one.log_prob_SxN[one.counts_SxN] for one in seeds])
    return {
        "rule": seeds[0].rule,
        "given": given,
        **entry,
        "nll": float(-log_prob.mean()),
        "ece": metrics.expected_calibration_error(np.exp(log_prob)),
        "reliability": metrics.reliability(np.exp(log_prob)),
        # How far the result depends on the training seed, and on which rows were labelled.
        "seeds": _spread(correct_TxSxN, test),
        "draws": _spread(np.moveaxis(correct_TxSxN, 1, 0), test),
    }


def _spread(correct_RxMxN: np.ndarray, test: TestSet) -> dict[str, Any]:
    """The macro accuracy of every repetition and their standard deviation."""
    macro_R = [macro_mean(row_means(one), test.attribute_N) for one in correct_RxMxN]
    deviation = float(np.std(macro_R, ddof=1)) if len(macro_R) > 1 else 0.0
    return {"count": len(macro_R), "std": deviation, "macro": macro_R}


def _heads(heads: HeadOutputs, test: TestSet) -> dict[str, Any]:
    """Accuracy, router weights, usage, names and diagnostics of the heads of one method."""
    attributes = len(test.attributes)
    accuracy_KxA = metrics.head_accuracy(heads.delta_NxK, test.attribute_N, attributes)
    weights_AxK = metrics.mean_weights(heads.log_weights_SxNxK, test.attribute_N, attributes)
    usage_K = np.exp(heads.log_weights_SxNxK).mean(axis=(0, 1))
    return {
        "accuracy": {
            name: accuracy_KxA[:, index].tolist() for index, name in enumerate(test.attributes)
        },
        "weights": {
            name: weights_AxK[index].tolist() for index, name in enumerate(test.attributes)
        },
        "usage": usage_K.tolist(),
        "names": [_head_name(row_A, test.attributes) for row_A in accuracy_KxA],
        **diagnose(heads),
    }


def _head_name(accuracy_A: np.ndarray, attributes: tuple[str, ...]) -> str:
    best = int(np.argmax(accuracy_A))
    if accuracy_A[best] < 0.5 + NAMING_MARGIN:
        return "unspecific"
    return attributes[best]
