"""Numbers from predictions: pure NumPy, chosen always first, ties count one half."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ECE_BINS = 10
TIE = 1e-12


class Interval(NamedTuple):
    """A value with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


def log_sigmoid(delta: np.ndarray) -> np.ndarray:
    """``log sigmoid``, elementwise, finite for every finite input."""
    return -np.logaddexp(0.0, -delta.astype(np.float64))


def mixture_log_prob(delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray) -> np.ndarray:
    """``log sum_k w_k sigmoid(delta_k)`` per draw and row: (S, N), float64."""
    terms = log_weights_SxNxK.astype(np.float64) + log_sigmoid(delta_NxK)
    return np.logaddexp.reduce(terms, axis=-1)


def decision_statistic(
    rule: str, delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray
) -> np.ndarray:
    """(S, N) statistic whose sign decides: positive where chosen wins, zero for a tie.

    R1 is ``log P(chosen wins) - log P(rejected wins)`` of the mixture, R2 the weighted margin.
    They can disagree: one loud head against several sure ones.
    """
    if rule == "R1":
        wins = mixture_log_prob(delta_NxK, log_weights_SxNxK)
        return wins - mixture_log_prob(-delta_NxK, log_weights_SxNxK)
    if rule == "R2":
        return np.sum(np.exp(log_weights_SxNxK.astype(np.float64)) * delta_NxK, axis=-1)
    raise ValueError(f"rule: expected R1 or R2, found {rule!r}")


def log_probability(rule: str, delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray) -> np.ndarray:
    """(S, N) ``log P(chosen wins)`` under a rule: of the mixture (R1) or of the reward (R2)."""
    if rule == "R2":
        return log_sigmoid(decision_statistic(rule, delta_NxK, log_weights_SxNxK))
    return mixture_log_prob(delta_NxK, log_weights_SxNxK)


def is_tie(statistic: np.ndarray) -> np.ndarray:
    """Where neither side wins; sums that cancel up to rounding are ties too."""
    return np.abs(statistic) < TIE


def correctness(statistic: np.ndarray) -> np.ndarray:
    """1 where chosen wins, 0 where it loses, one half for a tie; same shape."""
    return np.where(is_tie(statistic), 0.5, (statistic > 0).astype(np.float64))


def reliability(probability: np.ndarray) -> list[dict[str, float]]:
    """Mean confidence, accuracy and rows of every non-empty of ten equal bins of confidence.

    ``probability`` is that of the observed label; the sides of a pair are exchangeable, so the
    confidence ``max(p, 1 - p)`` of a decision lies in [1/2, 1].
    """
    p = probability.reshape(-1)
    confidence = np.maximum(p, 1 - p)
    place = np.minimum(((confidence - 0.5) * 2 * ECE_BINS).astype(int), ECE_BINS - 1)
    rows = np.bincount(place, minlength=ECE_BINS)
    sums = np.bincount(place, confidence, ECE_BINS)
    correct = np.bincount(place, correctness(p - 0.5), ECE_BINS)
    return [
        {
            "confidence": float(sums[bin_] / rows[bin_]),
            "accuracy": float(correct[bin_] / rows[bin_]),
            "n": int(rows[bin_]),
        }
        for bin_ in np.flatnonzero(rows)
    ]


def expected_calibration_error(probability: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over the bins of ``reliability``, by their rows."""
    bins = reliability(probability)
    gaps = sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in bins)
    return gaps / probability.size


def attribute_sums(
    correct_N: np.ndarray, prompt_N: np.ndarray, attribute_N: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of correctness and of rows per prompt and attribute: two (P, A) arrays."""
    flat = prompt_N * shape[1] + attribute_N
    size = shape[0] * shape[1]
    sums = np.bincount(flat, correct_N, size).reshape(shape)
    return sums, np.bincount(flat, minlength=size).reshape(shape).astype(np.float64)


def resample_prompts(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """(R, P) how often each prompt occurs in each bootstrap sample of P prompts."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)


def bootstrap_accuracies(
    sums_PxA: np.ndarray, rows_PxA: np.ndarray, counts_RxP: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy per attribute on the data (A,) and in every resample (R, A).

    An attribute that a resample misses altogether is NaN there and left out of its macro mean.
    """
    with np.errstate(invalid="ignore"):
        resampled = (counts_RxP @ sums_PxA) / (counts_RxP @ rows_PxA)
    return sums_PxA.sum(axis=0) / rows_PxA.sum(axis=0), resampled


def interval(value: float, resampled_R: np.ndarray, confidence: float) -> Interval:
    """Percentile bootstrap interval around a value; the whole [0, 1] if no resample knows it."""
    if np.isnan(resampled_R).all():
        return Interval(float(value), 0.0, 1.0)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled_R, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def wording_bootstrap(
    correct_N: np.ndarray,
    attribute_N: np.ndarray,
    wording_N: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray | None:
    """(R,) macro accuracies when the wordings of every attribute are drawn anew.

    How a method reads a wish is tried on a few wordings only; resampling prompts does not show how
    much depends on them. None if some attribute is asked for in fewer than two wordings. Rows whose
    ``correct_N`` is NaN do not count.
    """
    rng = np.random.default_rng((seed, 1))
    known_N = ~np.isnan(correct_N)
    accuracy_RxA = []
    for attribute in np.unique(attribute_N):
        rows = np.flatnonzero((attribute_N == attribute) & known_N)
        _, place = np.unique(wording_N[rows], return_inverse=True)
        rows_W = np.bincount(place).astype(np.float64)
        if rows_W.size < 2:
            return None
        sums_W = np.bincount(place, correct_N[rows])
        drawn_RxW = rng.multinomial(
            rows_W.size, np.full(rows_W.size, 1 / rows_W.size), size=resamples
        )
        accuracy_RxA.append((drawn_RxW @ sums_W) / (drawn_RxW @ rows_W))
    return np.mean(accuracy_RxA, axis=0)


def head_accuracy(delta_NxK: np.ndarray, attribute_N: np.ndarray, attributes: int) -> np.ndarray:
    """(K, A) accuracy of every head alone; NaN for an attribute without rows."""
    correct_NxK = correctness(delta_NxK)
    rows_A = np.bincount(attribute_N, minlength=attributes)
    sums = [np.bincount(attribute_N, column, attributes) for column in correct_NxK.T]
    with np.errstate(invalid="ignore"):
        return np.stack(sums) / rows_A


def mean_weights(
    log_weights_SxNxK: np.ndarray, attribute_N: np.ndarray, attributes: int
) -> np.ndarray:
    """(A, K) mean router weight of every head over the rows of every attribute and all draws."""
    weights_NxK = np.exp(log_weights_SxNxK.astype(np.float64)).mean(axis=0)
    rows_A = np.bincount(attribute_N, minlength=attributes)
    sums = [np.bincount(attribute_N, column, attributes) for column in weights_NxK.T]
    return (np.stack(sums) / rows_A).T
