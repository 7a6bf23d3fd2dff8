"""Intervals, p-values and families of comparisons from estimates with their errors (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .variance import Estimate

# Below this many expected errors, or successes, the variance of a proportion is not trusted alone.
FEW = 10
# An error below this is one of 0: every unit cancels, as where each pair occurs with both labels.
ROUNDING = 1e-9


def accuracy_interval(
    estimate: Estimate, independent_rows: float, confidence: float
) -> tuple[float, float]:
    """Wilson interval of an accuracy at its effective number of rows.

    The effective number gives the binomial variance that the estimate has (Korn and Graubard 1998),
    and the quantile is Student's. Where fewer than ``FEW`` errors or successes are expected it is
    at most ``independent_rows``, because a variance estimated from so few is not to be trusted: one
    of no error at all would be 0.

    Returns:
        Lower and upper bound; (0, 1) if the estimate has no degrees of freedom.
    """
    if estimate.freedom == 0:
        return 0.0, 1.0
    value, spread = estimate.value, estimate.value * (1 - estimate.value)
    rows = spread / estimate.error**2 if estimate.error > ROUNDING else np.inf
    if min(value, 1 - value) * independent_rows < FEW:
        rows = min(rows, independent_rows)
    square = stats.t.ppf((1 + confidence) / 2, estimate.freedom) ** 2 / rows
    centre = (value + square / 2) / (1 + square)
    half = np.sqrt(square * (spread + square / 4)) / (1 + square)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def difference_interval(estimate: Estimate, confidence: float) -> tuple[float, float]:
    """Student interval of a difference; (-1, 1) without degrees of freedom."""
    if estimate.freedom == 0:
        return -1.0, 1.0
    half = stats.t.ppf((1 + confidence) / 2, estimate.freedom) * estimate.error
    return float(max(estimate.value - half, -1.0)), float(min(estimate.value + half, 1.0))


def p_value(estimate: Estimate, differing_units: int) -> float:
    """Two-sided p-value of a difference of 0.

    It is never below that of a sign test in which all units that differ agree: fewer than six of
    them cannot show a difference at 5 %.
    """
    if estimate.freedom == 0 or differing_units == 0:
        return 1.0
    if estimate.error < ROUNDING:
        tail = 0.0 if abs(estimate.value) > ROUNDING else 1.0
    else:
        tail = 2 * stats.t.sf(abs(estimate.value) / estimate.error, estimate.freedom)
    return float(min(max(tail, 2.0 ** (1 - differing_units)), 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family (Holm 1979): a false one below 5 % in at most 5 % of families.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min((len(order) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted
