"""Accuracy and calibration of predictions, in NumPy without side effects.

Margins are those of the chosen response over the rejected one, so a positive margin is a right
decision; a tie counts one half. Shapes: S draws of the labelled rows, N test rows, K heads,
A attributes, P prompts.
"""

from __future__ import annotations

import numpy as np

ECE_BINS = 10
# Statistics below this are ties: weighted sums that cancel in theory miss zero by rounding.
TIE_TOLERANCE = 1e-12


def log_sigmoid(delta: np.ndarray) -> np.ndarray:
    """``log sigmoid(delta)`` elementwise in float64, without overflow for large ``|delta|``.

    >>> log_sigmoid(np.array([0.0, -1000.0])).round(4).tolist()
    [-0.6931, -1000.0]
    """
    return -np.logaddexp(0.0, -delta.astype(np.float64))


def mixture_log_prob(delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray) -> np.ndarray:
    """Log probability that the chosen response wins under the mixture of Bradley-Terry heads.

    Args:
        delta_NxK: Margin of every head on every row.
        log_weights_SxNxK: Log of the router weights, per draw.

    Returns:
        ``log sum_k w_k sigmoid(delta_k)``, (S, N), float64.
    """
    terms = log_weights_SxNxK.astype(np.float64) + log_sigmoid(delta_NxK)
    return np.logaddexp.reduce(terms, axis=-1)


def decision_statistic(
    rule: str, delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray
) -> np.ndarray:
    """Statistic whose sign is the decision of a rule: positive where the chosen response wins.

    R1 is the log-odds ``log P(chosen wins) - log P(rejected wins)`` of the mixture; R2 is the
    weighted margin ``sum_k w_k delta_k``. They disagree where one head with a large margin
    outweighs several heads in R2, whereas its vote in R1 is bounded by its weight.

    Args:
        rule: ``"R1"`` or ``"R2"``.
        delta_NxK: Margin of every head on every row.
        log_weights_SxNxK: Log of the router weights, per draw.

    Returns:
        (S, N), zero for a tie.

    Raises:
        ValueError: The rule is neither.
    """
    if rule == "R1":
        wins = mixture_log_prob(delta_NxK, log_weights_SxNxK)
        return wins - mixture_log_prob(-delta_NxK, log_weights_SxNxK)
    if rule == "R2":
        return np.sum(np.exp(log_weights_SxNxK.astype(np.float64)) * delta_NxK, axis=-1)
    raise ValueError(f"rule: expected R1 or R2, found {rule!r}")


def log_probability(rule: str, delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray) -> np.ndarray:
    """``log P(chosen wins)`` under a rule, (S, N): see ``decision_statistic`` for the arguments.

    R1 takes the probability of the mixture, R2 the Bradley-Terry probability of the weighted
    reward.
    """
    if rule == "R2":
        return log_sigmoid(decision_statistic(rule, delta_NxK, log_weights_SxNxK))
    return mixture_log_prob(delta_NxK, log_weights_SxNxK)


def is_tie(statistic: np.ndarray) -> np.ndarray:
    """Mask of the statistics that are zero up to rounding, so that neither response wins."""
    return np.abs(statistic) < TIE_TOLERANCE


def correctness(statistic: np.ndarray) -> np.ndarray:
    """Score decisions: 1 where the chosen response wins, 0 where it loses, 0.5 for a tie.

    >>> correctness(np.array([2.0, -0.1, 0.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    return np.where(is_tie(statistic), 0.5, (statistic > 0).astype(np.float64))


def reliability(probability: np.ndarray) -> list[dict[str, float]]:
    """Reliability diagram: mean confidence, accuracy and row count of each non-empty bin.

    The order of the two responses carries no meaning, so the confidence of a decision is
    ``max(p, 1 - p)``; ``ECE_BINS`` bins of equal width divide its range [1/2, 1].

    Args:
        probability: Probability of the observed label, of any shape.
    """
    p = probability.reshape(-1)
    confidence = np.maximum(p, 1 - p)
    # A confidence of exactly 1 belongs to the last bin, not to one beyond it.
    bin_index = np.minimum(((confidence - 0.5) * 2 * ECE_BINS).astype(int), ECE_BINS - 1)
    rows = np.bincount(bin_index, minlength=ECE_BINS)
    sums = np.bincount(bin_index, confidence, ECE_BINS)
    correct = np.bincount(bin_index, correctness(p - 0.5), ECE_BINS)
    return [
        {
            "confidence": float(sums[bin_] / rows[bin_]),
            "accuracy": float(correct[bin_] / rows[bin_]),
            "n": int(rows[bin_]),
        }
        for bin_ in np.flatnonzero(rows)
    ]


def expected_calibration_error(probability: np.ndarray) -> float:
    """Expected calibration error: mean ``|confidence - accuracy|``, bins weighted by their rows.

    Args:
        probability: Probability of the observed label, of any shape; see ``reliability``.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.1])), 6)
    0.15
    """
    bins = reliability(probability)
    gaps = sum(bin_["n"] * abs(bin_["confidence"] - bin_["accuracy"]) for bin_ in bins)
    return gaps / probability.size


def attribute_sums(
    correct_N: np.ndarray, prompt_N: np.ndarray, attribute_N: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum correctness, and count rows, per prompt and attribute.

    Args:
        correct_N: Correctness of every row, in [0, 1].
        prompt_N: Index of every row's prompt.
        attribute_N: Index of every row's attribute.
        shape: ``(P, A)``.

    Returns:
        Sums and counts, both (P, A) in float64.
    """
    # One index per cell, so that a single bincount fills the whole table.
    cell_N = prompt_N * shape[1] + attribute_N
    size = shape[0] * shape[1]
    sums = np.bincount(cell_N, correct_N, size).reshape(shape)
    return sums, np.bincount(cell_N, minlength=size).reshape(shape).astype(np.float64)


def head_accuracy(delta_NxK: np.ndarray, attribute_N: np.ndarray, attributes: int) -> np.ndarray:
    """Accuracy of each head on its own per attribute, (K, A); NaN for attributes without rows."""
    correct_NxK = correctness(delta_NxK)
    rows_A = np.bincount(attribute_N, minlength=attributes)
    sums = [np.bincount(attribute_N, column, attributes) for column in correct_NxK.T]
    with np.errstate(invalid="ignore"):
        return np.stack(sums) / rows_A


def mean_weights(
    log_weights_SxNxK: np.ndarray, attribute_N: np.ndarray, attributes: int
) -> np.ndarray:
    """Mean router weight per attribute and head, (A, K), over rows and draws."""
    weights_NxK = np.exp(log_weights_SxNxK.astype(np.float64)).mean(axis=0)
    rows_A = np.bincount(attribute_N, minlength=attributes)
    sums = [np.bincount(attribute_N, column, attributes) for column in weights_NxK.T]
    return (np.stack(sums) / rows_A).T
