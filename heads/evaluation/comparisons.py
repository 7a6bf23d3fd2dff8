"""Paired differences between methods: one family, each with what it says (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...configs.schema import EvaluateConfig
from .inference import difference_interval, holm, p_value
from .protocol import TestSet
from .rows import ORACLE, VALIDATED
from .units import sampled_units, too_few
from .variance import infer, row_means

# Contrasts that a report makes beside those with ``evaluate.against``, fixed beforehand.
PLANNED = (("micro", "static_mixture"),)


def comparisons(
    correct: Mapping[str, np.ndarray],
    test: TestSet,
    given: Mapping[str, str],
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    """Compare every method with ``config.against``, and what is planned, as one family.

    Best single heads take no part: an oracle is a bound, not a hypothesis.

    Args:
        correct: (T, S, N) correctness by method; NaN where a row is not scored.
        test: The test set.
        given: What each method is given at test time.
        config: Confidence level, and the comparator; without it the first method takes its part.
    """
    names = [name for name in correct if not name.endswith((ORACLE, VALIDATED))]
    if not names:
        return []
    against = config.against if config.against in names else names[0]
    pairs = [(name, against) for name in names if name != against]
    pairs += [pair for pair in PLANNED if set(pair) <= set(names) and pair not in pairs]
    return family(pairs, correct, test, given, config.confidence)


def family(
    pairs: Sequence[tuple[str, str]],
    correct: Mapping[str, np.ndarray],
    test: TestSet,
    given: Mapping[str, str],
    confidence: float,
) -> list[dict[str, Any]]:
    """Paired differences of ``pairs``, their p-values adjusted together (Holm).

    Returns:
        ``method``, ``against``, ``difference``, ``low`` and ``high`` of its own interval, ``p``,
        ``p_adjusted``, and the ``standing``: ``better`` or ``worse`` if the adjusted p-value is
        below 1 - ``confidence``, else ``noise``, or ``few`` if units are too few to say.
    """
    items = [
        _difference(pair, correct, test, "context" in (given[pair[0]], given[pair[1]]), confidence)
        for pair in pairs
    ]
    adjusted = holm([item["p"] for item in items])
    return [
        {**item, "p_adjusted": p, "standing": standing(item, p, 1 - confidence)}
        for item, p in zip(items, adjusted, strict=True)
    ]


def standing(item: Mapping[str, Any], p_adjusted: float, level: float) -> str:
    """What a difference says.

    >>> standing({"difference": 0.1, "few": False}, 0.01, 0.05)
    'better'
    """
    if item["few"]:
        return "few"
    if p_adjusted >= level:
        return "noise"
    return "better" if item["difference"] > 0 else "worse"


def cut_to_same(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, S, N) arrays with as many seeds and draws as the smaller has; a single one is kept."""
    for axis in (0, 1):
        sizes = first.shape[axis], second.shape[axis]
        if min(sizes) > 1:
            first, second = (np.take(one, range(min(sizes)), axis) for one in (first, second))
    return first, second


def _difference(
    pair: tuple[str, str],
    correct: Mapping[str, np.ndarray],
    test: TestSet,
    reads_context: bool,
    confidence: float,
) -> dict[str, Any]:
    units = sampled_units(test, reads_context=reads_context)
    first, second = cut_to_same(correct[pair[0]], correct[pair[1]])
    difference_TxSxN = first - second
    estimate = infer(difference_TxSxN, test.attribute_N, list(units.values()), bound=1.0)
    low, high = difference_interval(estimate, confidence)
    mean_N = np.nan_to_num(row_means(difference_TxSxN))
    differing = min(
        int((np.abs(np.bincount(unit_N, mean_N)) > 1e-9).sum()) for unit_N in units.values()
    )
    return {
        "method": pair[0],
        "against": pair[1],
        "difference": estimate.value,
        "low": low,
        "high": high,
        "p": p_value(estimate, differing),
        "units": list(units),
        "few": estimate.freedom == 0 or too_few(units),
    }
