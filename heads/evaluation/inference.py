"""Inference about macro accuracies: standard errors, intervals and tests over people, prompts,
wordings, seeds and draws (pure).

A macro accuracy is the mean over attributes of the accuracy of each. Its error has several sources,
which are crossed: the units that were sampled (people, else prompts; wordings too where a method
reads contexts), the training seeds, and the draws of labelled rows. Every source gives a variance
with its own degrees of freedom; the total is compared with a t distribution (Welch-Satterthwaite).
``docs/statistics.md`` says why, ``benchmarks/calibration.py`` shows by simulation that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

# Below this many expected errors, or successes, the variance of a proportion is not trusted alone.
FEW = 10


class Component(NamedTuple):
    """Variance that one source adds to an estimate, and its degrees of freedom."""

    variance: float
    freedom: float


class Estimate(NamedTuple):
    """A value with its standard error, and the degrees of freedom of that error.

    ``freedom`` is 0 if a source has too few units to say how far it matters.
    """

    value: float
    error: float
    freedom: float


def unit_component(correct_N: np.ndarray, attribute_N: np.ndarray, unit_N: np.ndarray) -> Component:
    """Variance of the macro mean of ``correct_N`` if units are sampled, rows of a unit together.

    The cluster-robust CR2 estimator for means of attributes, with the degrees of freedom of Bell
    and McCaffrey (2002). It is unbiased if rows are independent, whether units lie within one
    attribute or across several, and with one attribute it is the variance of a mean of clusters.

    Args:
        correct_N: A number per row: correctness, or a difference of two.
        attribute_N: Attribute of each row.
        unit_N: Unit of each row.

    Returns:
        The component; freedom 0 if all rows of an attribute are of one unit.

    >>> part = unit_component(np.array([1.0, 0, 1, 1]), np.zeros(4, int), np.arange(4))
    >>> round(part.variance, 6), round(part.freedom, 6)
    (0.0625, 3.0)
    """
    _, attribute_N = np.unique(attribute_N, return_inverse=True)
    _, unit_N = np.unique(unit_N, return_inverse=True)
    attributes, units = int(attribute_N.max()) + 1, int(unit_N.max()) + 1
    cell_N = unit_N * attributes + attribute_N
    rows_GxA = np.bincount(cell_N, minlength=units * attributes).reshape(units, attributes)
    sums_GxA = np.bincount(cell_N, correct_N, units * attributes).reshape(units, attributes)
    rows_A = rows_GxA.sum(axis=0)
    leverage_GxA = rows_GxA / rows_A
    if leverage_GxA.max() >= 1:
        return Component(0.0, 0.0)
    mean_A = sums_GxA.sum(axis=0) / rows_A
    weight_GxA = 1 / (attributes * rows_A * np.sqrt(1 - leverage_GxA))
    influence_G = (weight_GxA * (sums_GxA - rows_GxA * mean_A)).sum(axis=1)
    # Moments of the estimator's eigenvalues if rows are independent with one variance.
    own_G = (weight_GxA**2 * rows_GxA).sum(axis=1)
    shared_GxA = weight_GxA * rows_GxA / np.sqrt(rows_A)
    trace = own_G.sum() - (shared_GxA**2).sum()
    square = (
        (own_G**2).sum()
        - 2 * (own_G[:, None] * shared_GxA**2).sum()
        + ((shared_GxA.T @ shared_GxA) ** 2).sum()
    )
    return Component(float(influence_G @ influence_G), float(trace**2 / square))


def crossed_component(
    correct_N: np.ndarray, attribute_N: np.ndarray, units: Sequence[np.ndarray]
) -> Component:
    """Variance if several kinds of units are sampled that cross one another, such as people and
    prompts.

    Two kinds: the sum of both less that of their combinations (Cameron, Gelbach and Miller 2011),
    at least the larger of the two. A kind that contains another one adds nothing to it.
    """
    parts = [unit_component(correct_N, attribute_N, unit_N) for unit_N in units]
    if any(part.freedom == 0 for part in parts):
        return Component(0.0, 0.0)
    if len(parts) == 1:
        return parts[0]
    one_N, two_N = (np.unique(unit_N, return_inverse=True)[1] for unit_N in units)
    both = unit_component(correct_N, attribute_N, one_N * (int(two_N.max()) + 1) + two_N)
    largest = max(parts)
    total = parts[0].variance + parts[1].variance - both.variance
    if total <= largest.variance:
        return largest
    return combine([*parts], total)


def repeat_component(values_T: np.ndarray) -> Component:
    """Variance of the mean of repetitions, such as seeds; none of them vary if there is no noise.

    >>> part = repeat_component(np.array([0.5, 0.7]))
    >>> round(part.variance, 6), part.freedom
    (0.01, 1.0)
    """
    count = values_T.size
    if count < 2:
        return Component(0.0, 0.0)
    return Component(float(values_T.var(ddof=1) / count), float(count - 1))


def combine(parts: Sequence[Component], variance: float | None = None) -> Component:
    """Sum of independent components, with Satterthwaite's degrees of freedom.

    Args:
        parts: The components.
        variance: The total, if it is not their sum.
    """
    total = sum(part.variance for part in parts)
    if total == 0:
        return Component(0.0, max((part.freedom for part in parts), default=0.0))
    square = sum(part.variance**2 / part.freedom for part in parts if part.variance > 0)
    return Component(total if variance is None else variance, total**2 / square)


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
    rows = spread / estimate.error**2 if estimate.error > 0 else independent_rows
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
    if estimate.error == 0:
        tail = 0.0 if estimate.value else 1.0
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


def macro_mean(correct_N: np.ndarray, attribute_N: np.ndarray) -> float:
    """Mean over attributes of the mean of each; NaN rows are left out."""
    kept_N = ~np.isnan(correct_N)
    _, number_N = np.unique(attribute_N[kept_N], return_inverse=True)
    return float(np.mean(np.bincount(number_N, correct_N[kept_N]) / np.bincount(number_N)))


def infer(
    correct_TxSxN: np.ndarray, attribute_N: np.ndarray, units: Sequence[np.ndarray]
) -> Estimate:
    """Macro accuracy, or macro difference, over T seeds, S draws and the sampled units.

    Args:
        correct_TxSxN: A number per seed, draw and row; NaN where a draw does not score a row.
        attribute_N: Attribute of each row.
        units: One or two arrays (N,): the unit of each row, such as its person and its prompt.

    Returns:
        The estimate. Seeds and draws that do not differ add no variance and cost no freedom.
    """
    mean_N = _row_means(correct_TxSxN)
    kept_N = ~np.isnan(mean_N)
    parts = [
        crossed_component(mean_N[kept_N], attribute_N[kept_N], [unit_N[kept_N] for unit_N in units])
    ]
    for axis in (0, 1):
        slices = np.moveaxis(correct_TxSxN, axis, 0)
        values = np.array([macro_mean(_row_means(one[None]), attribute_N) for one in slices])
        parts.append(repeat_component(values))
    value = macro_mean(mean_N, attribute_N)
    if parts[0].freedom == 0:
        return Estimate(value, float("inf"), 0.0)
    total = combine(parts)
    return Estimate(value, float(np.sqrt(total.variance)), total.freedom)


def _row_means(correct: np.ndarray) -> np.ndarray:
    """(N,) mean over all axes but the last of the numbers that are not NaN; NaN without any."""
    flat = correct.reshape(-1, correct.shape[-1])
    counts_N = (~np.isnan(flat)).sum(axis=0)
    sums_N = np.nansum(flat, axis=0)
    return np.divide(sums_N, counts_N, out=np.full(counts_N.shape, np.nan), where=counts_N > 0)
