"""Build ``report.json`` from scored test rows: every accuracy with its count and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...configs.schema import EvaluateConfig
from ..methods.interface import HeadOutputs
from . import metrics
from .diagnostics import diagnose
from .protocol import ScoredMethod, TestSet, score_best_heads
from .rows import ORACLE, VALIDATED, owner_of

# Accuracy above chance from which a head is named after the attribute it is best at.
NAMING_MARGIN = 0.05
# The baselines of the paired comparisons; those that were not run are skipped.
REFERENCES = ("single_bt", "micro")


def with_best_heads(
    scored: Mapping[str, ScoredMethod],
    owners: list[str],
    test: TestSet,
    validation: Mapping[str, np.ndarray],
) -> dict[str, ScoredMethod]:
    """Add the best single heads of every method that trained several.

    Args:
        scored: Scored methods by name.
        owners: Methods that trained heads of their own, not only a router.
        test: The test set.
        validation: Head accuracies on validation rows, (K, A), by owner; owners without
            validation rows get no validated row.

    Returns:
        ``scored`` followed by the validated and the oracle row of each owner.
    """
    result = dict(scored)
    for name in owners:
        heads = scored[name].heads
        if heads is None or heads.delta_NxK.shape[1] == 1:
            continue
        if name in validation:
            result[name + VALIDATED] = score_best_heads(heads, test, validation[name])
        accuracy_KxA = metrics.head_accuracy(
            heads.delta_NxK, test.attribute_N, len(test.attributes)
        )
        result[name + ORACLE] = score_best_heads(heads, test, accuracy_KxA)
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
    scored: Mapping[str, ScoredMethod],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Compute the numbers of ``report.json``: methods, heads, router weights, comparisons.

    Intervals are percentile bootstraps over prompts. All methods share the resamples, which makes
    the ``comparisons`` paired.

    Args:
        dataset: Name of the data set.
        test: The test set.
        scored: Scored methods by name.
        config: Number of resamples and confidence level.
        seed: Of the resamples.
    """
    counts_RxP = metrics.resample_prompts(test.prompts, config.bootstrap, seed)
    macros: dict[str, tuple[float, np.ndarray]] = {}
    methods = {}
    for name, result in scored.items():
        # The resampled macro accuracies are kept for the paired differences below.
        methods[name], macros[name] = _method(result, test, counts_RxP, config.confidence)
        methods[name]["wordings"] = _wordings(result, test, config, seed)
    return {
        "dataset": dataset,
        "test": {"rows": int(test.table_rows.size), "prompts": test.prompts},
        "methods": methods,
        "comparisons": _comparisons(macros, config.confidence),
        "heads": {
            name: _heads(result.heads, test)
            for name, result in scored.items()
            if result.heads is not None
        },
    }


def accuracies(
    correct_N: np.ndarray, test: TestSet, config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """Macro accuracy and accuracy per attribute, each with its bootstrap interval over prompts.

    Args:
        correct_N: Correctness of every test row in [0, 1]; NaN for rows that are not scored.
        test: The test set.
        config: Number of resamples and confidence level.
        seed: Of the resamples.
    """
    counts_RxP = metrics.resample_prompts(test.prompts, config.bootstrap, seed)
    return _accuracies(correct_N, test, counts_RxP, config.confidence)[0]


def _accuracies(
    correct_N: np.ndarray, test: TestSet, counts_RxP: np.ndarray, confidence: float
) -> tuple[dict[str, Any], np.ndarray]:
    """``accuracies`` on given resamples, together with the macro accuracy of each of them, (R,)."""
    sums, rows = _sums(correct_N, test)
    accuracy_A, resampled_RxA = metrics.bootstrap_accuracies(sums, rows, counts_RxP)
    attributes = {}
    for index, name in enumerate(test.attributes):
        bounds = metrics.interval(accuracy_A[index], resampled_RxA[:, index], confidence)
        attributes[name] = {
            "accuracy": bounds.value,
            "n": int(rows[:, index].sum()),
            "low": bounds.low,
            "high": bounds.high,
        }
    macro_R = np.nanmean(resampled_RxA, axis=1)
    macro = metrics.interval(float(accuracy_A.mean()), macro_R, confidence)
    return {
        "macro": {"accuracy": macro.value, "low": macro.low, "high": macro.high},
        "attributes": attributes,
    }, macro_R


def _method(
    result: ScoredMethod, test: TestSet, counts_RxP: np.ndarray, confidence: float
) -> tuple[dict[str, Any], tuple[float, np.ndarray]]:
    """The report entry of a method, and its macro accuracy with the resampled ones, (R,)."""
    accuracy, macro_R = _accuracies(result.mean_correct_N, test, counts_RxP, confidence)
    tied_N = (result.tie_SxN & result.counts_SxN).any(axis=0)
    ties_A = np.bincount(test.attribute_N, tied_N, len(test.attributes))
    for cell, ties in zip(accuracy["attributes"].values(), ties_A, strict=True):
        cell["ties"] = int(ties)
    # The spread over draws shows how far the result depends on which rows were labelled.
    draws_S = [
        _macro(np.where(counts_N, correct_N, np.nan), test)
        for correct_N, counts_N in zip(result.correct_SxN, result.counts_SxN, strict=True)
    ]
    log_prob = result.log_prob_SxN[result.counts_SxN]
    entry = {
        "rule": result.rule,
        **accuracy,
        "nll": float(-log_prob.mean()),
        "ece": metrics.expected_calibration_error(np.exp(log_prob)),
        "reliability": metrics.reliability(np.exp(log_prob)),
        "draws": {"count": len(draws_S), "std": float(np.std(draws_S)), "macro": draws_S},
    }
    return entry, (accuracy["macro"]["accuracy"], macro_R)


def _wordings(
    result: ScoredMethod, test: TestSet, config: EvaluateConfig, seed: int
) -> dict[str, Any] | None:
    """Interval of the macro accuracy over wordings of the contexts; None if it cannot be had."""
    if test.wording_N is None:
        return None
    resampled_R = metrics.wording_bootstrap(
        result.mean_correct_N, test.attribute_N, test.wording_N, config.bootstrap, seed
    )
    if resampled_R is None:
        return None
    # Only the bounds are reported: the value is the macro accuracy itself.
    bounds = metrics.interval(0.0, resampled_R, config.confidence)
    return {"count": int(np.unique(test.wording_N).size), "low": bounds.low, "high": bounds.high}


def _sums(correct_N: np.ndarray, test: TestSet) -> tuple[np.ndarray, np.ndarray]:
    """``metrics.attribute_sums`` over the rows that are not NaN."""
    scored_N = ~np.isnan(correct_N)
    shape = (test.prompts, len(test.attributes))
    return metrics.attribute_sums(
        correct_N[scored_N], test.prompt_N[scored_N], test.attribute_N[scored_N], shape
    )


def _macro(correct_N: np.ndarray, test: TestSet) -> float:
    sums, rows = _sums(correct_N, test)
    return float(np.mean(sums.sum(axis=0) / rows.sum(axis=0)))


def _comparisons(
    macros: Mapping[str, tuple[float, np.ndarray]], confidence: float
) -> list[dict[str, Any]]:
    """Paired differences between every method and each reference, each pair once.

    Without any of ``REFERENCES`` the first method serves as the reference.
    """
    names = list(macros)
    references = [name for name in REFERENCES if name in macros] or names[:1]
    result = []
    for rank, base in enumerate(references):
        for name in names:
            if name in references[: rank + 1]:  # itself, or compared the other way round already
                continue
            difference = metrics.interval(
                macros[name][0] - macros[base][0], macros[name][1] - macros[base][1], confidence
            )
            result.append(
                {
                    "method": name,
                    "against": base,
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                }
            )
    return result


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
