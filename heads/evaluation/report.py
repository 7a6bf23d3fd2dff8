"""Scored rows to ``report.json``: every accuracy with its count and its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...configs.schema import EvaluateConfig
from . import metrics
from .protocol import Scored, TestSet

# A head is named after an attribute only if it serves that attribute better than chance by this.
NAMING_MARGIN = 0.05


def build_report(
    dataset: str,
    test: TestSet,
    scored: Mapping[str, Scored],
    config: EvaluateConfig,
    seed: int,
    validation: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The numbers of the report: methods, heads, router weights and paired comparisons.

    Intervals are percentile bootstraps over prompts; all methods share the resamples, so
    ``comparisons`` are paired. ``validation`` holds head accuracies (K, A) on validation rows, if
    there are any.
    """
    counts_RxP = metrics.resample_prompts(test.prompts, config.bootstrap, seed)
    macros: dict[str, tuple[float, np.ndarray]] = {}
    methods = {}
    for name, result in scored.items():
        entry, macro = _method(result, test, counts_RxP, config.confidence)
        methods[name], macros[name] = entry, macro
    return {
        "dataset": dataset,
        "test": {"rows": int(test.table_rows.size), "prompts": test.prompts},
        "methods": methods,
        "comparisons": _comparisons(macros, config.confidence),
        "heads": {
            name: _heads(result, test, (validation or {}).get(name))
            for name, result in scored.items()
        },
    }


def _method(
    result: Scored, test: TestSet, counts_RxP: np.ndarray, confidence: float
) -> tuple[dict[str, Any], tuple[float, np.ndarray]]:
    shape = (test.prompts, len(test.attributes))
    correct_N = result.correct_SxN.mean(axis=0)
    sums, rows = metrics.attribute_sums(correct_N, test.prompt_N, test.attribute_N, shape)
    accuracy_A, resampled_RxA = metrics.bootstrap_accuracies(sums, rows, counts_RxP)
    ties_A = np.bincount(test.attribute_N, result.tie_SxN.any(axis=0), shape[1])
    attributes = {}
    for number, name in enumerate(test.attributes):
        bounds = metrics.interval(accuracy_A[number], resampled_RxA[:, number], confidence)
        attributes[name] = {
            "accuracy": bounds.value,
            "n": int(rows[:, number].sum()),
            "ties": int(ties_A[number]),
            "low": bounds.low,
            "high": bounds.high,
        }
    macro_R = np.nanmean(resampled_RxA, axis=1)
    macro = metrics.interval(float(accuracy_A.mean()), macro_R, confidence)
    draws_S = [
        float(
            np.mean(
                metrics.attribute_sums(one, test.prompt_N, test.attribute_N, shape)[0].sum(0)
                / rows.sum(0)
            )
        )
        for one in result.correct_SxN
    ]
    entry = {
        "rule": result.rule,
        "macro": {"accuracy": macro.value, "low": macro.low, "high": macro.high},
        "attributes": attributes,
        "nll": float(-result.log_prob_SxN.mean()),
        "ece": metrics.expected_calibration_error(np.exp(result.log_prob_SxN)),
        "draws": {"count": len(draws_S), "std": float(np.std(draws_S)), "macro": draws_S},
    }
    return entry, (macro.value, macro_R)


def _comparisons(
    macros: Mapping[str, tuple[float, np.ndarray]], confidence: float
) -> list[dict[str, Any]]:
    """Paired differences of every method to the one before it in the list and to the first."""
    names = list(macros)
    pairs = [(names[0], name) for name in names[1:]]
    pairs += [(before, after) for before, after in itertools.pairwise(names) if before != names[0]]
    result = []
    for base, name in pairs:
        difference = metrics.interval(
            macros[name][0] - macros[base][0], macros[name][1] - macros[base][1], confidence
        )
        result.append({"method": name, "against": base, **asdict_interval(difference)})
    return result


def asdict_interval(item: metrics.Interval) -> dict[str, float]:
    """An interval of a difference as it stands in the report."""
    return {"difference": item.value, "low": item.low, "high": item.high}


def _heads(result: Scored, test: TestSet, validation_KxA: np.ndarray | None) -> dict[str, Any]:
    attributes = len(test.attributes)
    accuracy_KxA = metrics.head_accuracy(result.prediction.delta_NxK, test.attribute_N, attributes)
    weights_AxK = metrics.mean_weights(
        result.prediction.log_weights_SxNxK, test.attribute_N, attributes
    )
    usage_K = np.exp(result.prediction.log_weights_SxNxK).mean(axis=(0, 1))
    return {
        "accuracy": {
            name: accuracy_KxA[:, number].tolist() for number, name in enumerate(test.attributes)
        },
        "weights": {
            name: weights_AxK[number].tolist() for number, name in enumerate(test.attributes)
        },
        "usage": usage_K.tolist(),
        # Chosen on the test rows themselves: an upper bound for routing, not a result.
        "best_head_oracle": float(metrics.best_heads(accuracy_KxA, accuracy_KxA).mean()),
        "best_head_validated": None
        if validation_KxA is None
        else float(metrics.best_heads(validation_KxA, accuracy_KxA).mean()),
        "names": [_head_name(row_A, test.attributes) for row_A in accuracy_KxA],
    }


def _head_name(accuracy_A: np.ndarray, attributes: tuple[str, ...]) -> str:
    best = int(np.argmax(accuracy_A))
    if accuracy_A[best] < 0.5 + NAMING_MARGIN:
        return "unspecific"
    return attributes[best]
