"""Variance of macro accuracies over people, prompts, wordings, seeds and draws (pure).

A macro accuracy is the mean over attributes of the accuracy of each. Its error has several sources,
which are crossed: the units that were sampled (people, else prompts; wordings too where a method
reads contexts), the training seeds, and the draws of labelled rows. Every source gives a variance
with its own degrees of freedom; the total is compared with a t distribution (Welch-Satterthwaite).
``docs/statistics.md`` says why, ``benchmarks/calibration.py`` shows by simulation that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np


class Component(NamedTuple):
    """Variance that one source adds to an estimate, and its degrees of freedom."""

    variance: float
    freedom: float


class Estimate(NamedTuple):
    """A value with its standard error, and the degrees of freedom of that error.

    ``freedom`` is 0 if there are too few units to say how far they matter.
    """

    value: float
    error: float
    freedom: float


# A source with too few units.
UNKNOWN = Component(0.0, 0.0)


def unit_component(
    correct_N: np.ndarray, attribute_N: np.ndarray, unit_N: np.ndarray, bound: float = 0.5
) -> Component:
    """Variance of the macro mean of ``correct_N`` if units are sampled, rows of a unit together.

    The cluster-robust CR2 estimator for means of attributes, with the degrees of freedom of Bell
    and McCaffrey (2002). It is unbiased if rows are independent, whether units lie within one
    attribute or across several, and with one attribute it is the variance of a mean of clusters.

    Args:
        correct_N: A number per row: correctness, or a difference of two.
        attribute_N: Attribute of each row.
        unit_N: Unit of each row.
        bound: Largest standard deviation of a row. An attribute that has a single unit, which says
            nothing about others, is given it: 0.5 for correctness, 1 for a difference of two.

    Returns:
        The component; ``UNKNOWN`` if every attribute has a single unit.

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
    single_A = leverage_GxA.max(axis=0) == 1
    if single_A.all():
        return UNKNOWN
    mean_A = sums_GxA.sum(axis=0) / rows_A
    left_GxA = np.where(single_A, 1.0, 1 - leverage_GxA)
    weight_GxA = np.where(single_A, 0.0, 1 / (attributes * rows_A * np.sqrt(left_GxA)))
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
    unknown = single_A.sum() * (bound / attributes) ** 2
    return Component(float(influence_G @ influence_G + unknown), float(trace**2 / square))


def crossed_component(
    correct_N: np.ndarray,
    attribute_N: np.ndarray,
    units: Sequence[np.ndarray],
    bound: float = 0.5,
) -> Component:
    """Variance if several kinds of units are sampled that cross one another, such as people and
    prompts.

    The variances of all kinds less those of their combinations, by inclusion and exclusion
    (Cameron, Gelbach and Miller 2011), but at least the largest of a kind, with the fewest degrees
    of freedom of any. A kind whose units contain those of another one stands for both.
    """
    units = outermost(units)
    parts = [unit_component(correct_N, attribute_N, unit_N, bound) for unit_N in units]
    if any(part.freedom == 0 for part in parts):
        return UNKNOWN
    total = sum(part.variance for part in parts)
    for size in range(2, len(units) + 1):
        for kinds in combinations(units, size):
            both_N = np.unique(np.stack(kinds), axis=1, return_inverse=True)[1].ravel()
            both = unit_component(correct_N, attribute_N, both_N, bound)
            total += (-1) ** (size + 1) * both.variance
    largest = max(part.variance for part in parts)
    # A variance from few units may be small by chance, and its few degrees of freedom with it.
    return Component(max(total, largest), min(part.freedom for part in parts))


def outermost(units: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The kinds of units that lie within no other kind, such as people without their prompts.

    >>> person_N, prompt_N = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    >>> [unit_N.tolist() for unit_N in outermost([prompt_N, person_N])]
    [[0, 0, 1, 1]]
    """
    kept: list[np.ndarray] = []
    # From the coarsest on, so that of two kinds with the same units the first is kept.
    for unit_N in sorted(units, key=lambda unit_N: np.unique(unit_N).size):
        own = np.unique(unit_N).size
        within = [np.unique(np.stack([unit_N, other_N]), axis=1).shape[1] for other_N in kept]
        if own not in within:
            kept.append(unit_N)
    return kept


def repeat_component(
    correct_RxN: np.ndarray,
    attribute_N: np.ndarray,
    units: Sequence[np.ndarray],
    mean_N: np.ndarray,
) -> tuple[float, Component]:
    """Variance that repetitions add to their mean, such as seeds, beside that of the units.

    The variance of the macro means of R repetitions. Repetitions also scatter from row to row, and
    the units' own variance has that share already: it is taken off, as in a two-way analysis of
    variance, down to 0.

    Args:
        correct_RxN: A number per repetition and row; NaN where a repetition does not score a row.
        attribute_N: Attribute of each row.
        units: Unit of each row, per kind.
        mean_N: Mean of each row over everything.

    Returns:
        The variance to add, and the whole variance, whose degrees of freedom count.

    >>> values = np.array([[0.5, 0.5], [0.7, 0.7]])
    >>> added, whole = repeat_component(values, np.zeros(2), [np.arange(2)], values.mean(axis=0))
    >>> round(added, 6), round(whole.variance, 6), whole.freedom
    (0.01, 0.01, 1.0)
    """
    count = len(correct_RxN)
    if count < 2:
        return 0.0, UNKNOWN
    values_R = np.array([macro_mean(correct_N, attribute_N) for correct_N in correct_RxN])
    whole = Component(float(values_R.var(ddof=1) / count), float(count - 1))
    if whole.variance == 0:
        return 0.0, whole
    scattered = 0.0
    for correct_N in correct_RxN:
        kept_N = ~np.isnan(correct_N)
        scattered += crossed_component(
            (correct_N - mean_N)[kept_N],
            attribute_N[kept_N],
            [unit_N[kept_N] for unit_N in units],
            bound=0.0,
        ).variance
    return max(whole.variance - scattered / (count * (count - 1)), 0.0), whole


def combine(parts: Sequence[Component], variance: float | None = None) -> Component:
    """Sum of components, with Satterthwaite's degrees of freedom, at least the fewest of any.

    Args:
        parts: The components.
        variance: The total, if it is not their sum.
    """
    total = sum(part.variance for part in parts) if variance is None else variance
    if total == 0:
        return Component(0.0, max((part.freedom for part in parts), default=0.0))
    varying = [part for part in parts if part.variance > 0]
    square = sum(part.variance**2 / part.freedom for part in varying)
    return Component(total, max(total**2 / square, min(part.freedom for part in varying)))


def infer(
    correct_TxSxN: np.ndarray,
    attribute_N: np.ndarray,
    units: Sequence[np.ndarray],
    bound: float = 0.5,
) -> Estimate:
    """Macro accuracy, or macro difference, over T seeds, S draws and the sampled units.

    Args:
        correct_TxSxN: A number per seed, draw and row; NaN where a draw does not score a row.
        attribute_N: Attribute of each row.
        units: Arrays (N,), one per kind: the unit of each row, such as its person and its prompt.
        bound: Largest standard deviation of a row; see ``unit_component``.

    Returns:
        The estimate. Seeds and draws that do not differ add no variance and cost no freedom.
    """
    mean_N = row_means(correct_TxSxN)
    kept_N = ~np.isnan(mean_N)
    units_n = [unit_N[kept_N] for unit_N in units]
    whole = crossed_component(mean_N[kept_N], attribute_N[kept_N], units_n, bound)
    value = macro_mean(mean_N, attribute_N)
    if whole.freedom == 0:
        return Estimate(value, float("inf"), 0.0)
    parts, variance = [whole], whole.variance
    for axis in (0, 1):
        slices = np.moveaxis(correct_TxSxN, axis, 0)
        repeated_RxN = np.stack([row_means(one[None]) for one in slices])
        added, part = repeat_component(repeated_RxN, attribute_N, units, mean_N)
        parts.append(part)
        variance += added
    total = combine(parts, variance)
    return Estimate(value, float(np.sqrt(total.variance)), total.freedom)


def macro_mean(correct_N: np.ndarray, attribute_N: np.ndarray) -> float:
    """Mean over attributes of the mean of each; NaN rows are left out."""
    kept_N = ~np.isnan(correct_N)
    _, number_N = np.unique(attribute_N[kept_N], return_inverse=True)
    return float(np.mean(np.bincount(number_N, correct_N[kept_N]) / np.bincount(number_N)))


def row_means(correct: np.ndarray) -> np.ndarray:
    """(N,) mean over all axes but the last of the numbers that are not NaN; NaN without any."""
    flat = correct.reshape(-1, correct.shape[-1])
    counts_N = (~np.isnan(flat)).sum(axis=0)
    sums_N = np.nansum(flat, axis=0)
    return np.divide(sums_N, counts_N, out=np.full(counts_N.shape, np.nan), where=counts_N > 0)
