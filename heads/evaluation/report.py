"""Scored rows to ``report.json``: every accuracy with its count and its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...configs.schema import EvaluateConfig
from ..methods.interface import HeadOutputs
from . import metrics
from .diagnostics import diagnose
from .protocol import Scored, TestSet, score_best_heads
from .rows import ORACLE, VALIDATED, owner_of

# A head is named after an attribute only if it serves that attribute better than chance by this.
NAMING_MARGIN = 0.05
# What every other method is compared with, where it is there.
REFERENCES = ("single_bt", "micro")


def with_best_heads(
    scored: Mapping[str, Scored],
    owners: list[str],
    test: TestSet,
    validation: Mapping[str, np.ndarray],
) -> dict[str, Scored]:
    """The scored methods and, behind each owner of several heads, its best single heads.

    ``validation`` holds head accuracies (K, A) on validation rows, where there are any.
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
    """What a best-head row is, in a sentence."""
    if name.endswith(ORACLE):
        return (
            f"The head of {owner_of(name)} that is best on these very rows: a bound, not a result."
        )
    return f"The head of {owner_of(name)} that is best on validation rows of the attribute, alone."


def build_report(
    dataset: str, test: TestSet, scored: Mapping[str, Scored], config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """The numbers of the report: methods, heads, router weights and paired comparisons.

    Intervals are percentile bootstraps over prompts; all methods share the resamples, so
    ``comparisons`` are paired.
    """
    counts_RxP = metrics.resample_prompts(test.prompts, config.bootstrap, seed)
    macros: dict[str, tuple[float, np.ndarray]] = {}
    methods = {}
    for name, result in scored.items():
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
    """Macro accuracy and accuracy per attribute of rows judged 0 to 1, with their intervals."""
    counts_RxP = metrics.resample_prompts(test.prompts, config.bootstrap, seed)
    return _accuracies(correct_N, test, counts_RxP, config.confidence)[0]


def _accuracies(
    correct_N: np.ndarray, test: TestSet, counts_RxP: np.ndarray, confidence: float
) -> tuple[dict[str, Any], np.ndarray]:
    """The same from resampled prompts, and the (R,) macro accuracies of the resamples."""
    sums, rows = _sums(correct_N, test)
    accuracy_A, resampled_RxA = metrics.bootstrap_accuracies(sums, rows, counts_RxP)
    attributes = {}
    for number, name in enumerate(test.attributes):
        bounds = metrics.interval(accuracy_A[number], resampled_RxA[:, number], confidence)
        attributes[name] = {
            "accuracy": bounds.value,
            "n": int(rows[:, number].sum()),
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
    result: Scored, test: TestSet, counts_RxP: np.ndarray, confidence: float
) -> tuple[dict[str, Any], tuple[float, np.ndarray]]:
    found, macro_R = _accuracies(result.mean_correct_N, test, counts_RxP, confidence)
    tied_N = (result.tie_SxN & result.counts_SxN).any(axis=0)
    ties_A = np.bincount(test.attribute_N, tied_N, len(test.attributes))
    for cell, ties in zip(found["attributes"].values(), ties_A, strict=True):
        cell["ties"] = int(ties)
    draws_S = [
        _macro(np.where(counts_N, correct_N, np.nan), test)
        for correct_N, counts_N in zip(result.correct_SxN, result.counts_SxN, strict=True)
    ]
    log_prob = result.log_prob_SxN[result.counts_SxN]
    entry = {
        "rule": result.rule,
        **found,
        "nll": float(-log_prob.mean()),
        "ece": metrics.expected_calibration_error(np.exp(log_prob)),
        "reliability": metrics.reliability(np.exp(log_prob)),
        "draws": {"count": len(draws_S), "std": float(np.std(draws_S)), "macro": draws_S},
    }
    return entry, (found["macro"]["accuracy"], macro_R)


def _wordings(
    result: Scored, test: TestSet, config: EvaluateConfig, seed: int
) -> dict[str, Any] | None:
    """Interval of the macro accuracy over wordings of the wishes, where every row states one."""
    if test.wording_N is None:
        return None
    resampled_R = metrics.wording_bootstrap(
        result.mean_correct_N, test.attribute_N, test.wording_N, config.bootstrap, seed
    )
    if resampled_R is None:
        return None
    bounds = metrics.interval(0.0, resampled_R, config.confidence)
    return {"count": int(np.unique(test.wording_N).size), "low": bounds.low, "high": bounds.high}


def _sums(correct_N: np.ndarray, test: TestSet) -> tuple[np.ndarray, np.ndarray]:
    """Sums of correctness and of rows per prompt and attribute, of the rows that are not NaN."""
    known = ~np.isnan(correct_N)
    shape = (test.prompts, len(test.attributes))
    return metrics.attribute_sums(
        correct_N[known], test.prompt_N[known], test.attribute_N[known], shape
    )


def _macro(correct_N: np.ndarray, test: TestSet) -> float:
    sums, rows = _sums(correct_N, test)
    return float(np.mean(sums.sum(axis=0) / rows.sum(axis=0)))


def _comparisons(
    macros: Mapping[str, tuple[float, np.ndarray]], confidence: float
) -> list[dict[str, Any]]:
    """Paired differences of every method to the first reference that is there and to the others."""
    names = list(macros)
    references = [name for name in REFERENCES if name in macros] or names[:1]
    result = []
    for place, base in enumerate(references):
        for name in names:
            if name in references[: place + 1]:  # itself, or compared from the other side
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
    attributes = len(test.attributes)
    accuracy_KxA = metrics.head_accuracy(heads.delta_NxK, test.attribute_N, attributes)
    weights_AxK = metrics.mean_weights(heads.log_weights_SxNxK, test.attribute_N, attributes)
    usage_K = np.exp(heads.log_weights_SxNxK).mean(axis=(0, 1))
    return {
        "accuracy": {
            name: accuracy_KxA[:, number].tolist() for number, name in enumerate(test.attributes)
        },
        "weights": {
            name: weights_AxK[number].tolist() for number, name in enumerate(test.attributes)
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
