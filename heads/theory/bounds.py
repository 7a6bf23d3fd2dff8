"""The quantities of Theorem 3.2 for a fully specified mixture, in NumPy, float64 and nats.

The user behind prompt x belongs to group k with probability gamma_k(x) and prefers the first
response of a pair with probability sigma_k(x, a, b). Prompts, and the pairs of a prompt, have equal
weight. Source: Theorem 3.2 of the MiCRo paper, under the readings that theory.html explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import UserError

Array = NDArray[np.float64]


class MixtureError(UserError):
    """The arrays do not describe a mixture; the message says which property they lack."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of K groups with known group probabilities and preference probabilities.

    Attributes:
        gamma_XxK: Probability of each group given the prompt; rows sum to 1.
        sigma_XxPxK: Probability that a member of the group prefers the first response of the pair.

    Raises:
        MixtureError: The shapes disagree or the values are not probabilities.

    >>> mixture = Mixture(np.array([[0.5, 0.5]]), np.array([[[0.9, 0.1]]]))
    >>> round(irreducible_entropy(mixture), 6), round(best_single_loss(mixture), 6)
    (0.325083, 0.693147)
    """

    gamma_XxK: Array
    sigma_XxPxK: Array

    def __post_init__(self) -> None:
        gamma, sigma = self.gamma_XxK.shape, self.sigma_XxPxK.shape
        if len(gamma) != 2 or len(sigma) != 3 or (sigma[0], sigma[2]) != gamma or 0 in sigma:
            raise MixtureError(
                f"expected gamma of shape (X, K) and sigma of shape (X, P, K), found {gamma} and "
                f"{sigma}; give one row of gamma per prompt"
            )
        off = float(np.abs(self.gamma_XxK.sum(axis=1) - 1).max())
        if not (off < 1e-9 and self.gamma_XxK.min() >= 0):
            raise MixtureError(
                f"gamma: expected rows of probabilities, found sums that miss 1 by {off:.3g} and "
                f"a smallest entry of {self.gamma_XxK.min():.3g}; divide each row by its sum"
            )
        low, high = float(self.sigma_XxPxK.min()), float(self.sigma_XxPxK.max())
        if not 0 <= low <= high <= 1:
            raise MixtureError(
                f"sigma: expected probabilities in [0, 1], found {low:.3g} to {high:.3g}; give the "
                "sigmoid of the score differences"
            )

    @property
    def num_groups(self) -> int:
        """K, the number of groups."""
        return self.gamma_XxK.shape[1]

    @property
    def rho(self) -> float:
        """The smallest group probability over all prompts, rho in the theorem; at most 1/K."""
        return float(self.gamma_XxK.min())

    @property
    def sigma_bar_XxP(self) -> Array:
        """``sum_k gamma_k sigma_k``, the best prediction without knowledge of the group."""
        return np.einsum("xk,xpk->xp", self.gamma_XxK, self.sigma_XxPxK)


def sigmoid(score: ArrayLike) -> Array:
    """``1 / (1 + exp(-score))`` elementwise in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(score, np.float64)))


def _x_log_y(x: Array, y: Array) -> Array:
    """``x log y``, with ``0 log y = 0`` for every y."""
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)


def binary_entropy(probability: ArrayLike) -> Array:
    """Entropy of Bernoulli(p), h(p), elementwise, in nats; h(0) = h(1) = 0.

    >>> round(float(binary_entropy(0.1)), 6)
    0.325083
    """
    p = np.asarray(probability, np.float64)
    return -_x_log_y(p, p) - _x_log_y(1 - p, 1 - p)


def irreducible_entropy(mixture: Mixture) -> float:
    """H, the mean of h(sigma_k): the Bayes-optimal loss if the group is known, in nats.

    The printed definition has the model's sigma_r inside the logarithms; that would be the loss
    itself rather than the entropy that the proof uses.
    """
    entropy_XxPxK = binary_entropy(mixture.sigma_XxPxK)
    return float(np.einsum("xk,xpk->xp", mixture.gamma_XxK, entropy_XxPxK).mean())


def single_loss(mixture: Mixture, score_XxP: Array) -> float:
    """Cross-entropy L_CE of a single reward model, in nats.

    Args:
        mixture: The mixture that generates the labels.
        score_XxP: Score difference r(x, a) - r(x, b) that the model gives every pair.
    """
    return float(np.mean(np.logaddexp(0.0, score_XxP) - mixture.sigma_bar_XxP * score_XxP))


def best_single_loss(mixture: Mixture) -> float:
    """Mean of h(sigma_bar): the Bayes-optimal loss if the group is unknown, in nats."""
    return float(binary_entropy(mixture.sigma_bar_XxP).mean())


def exact_gap(mixture: Mixture) -> float:
    """``best_single_loss - H`` = I(y; z | x, a, b): information of the group z about the label y.

    It is computed directly, as the mean of KL(Ber(sigma_k) || Ber(sigma_bar)), so that it can
    check the difference of the two losses.
    """
    p, q = mixture.sigma_XxPxK, mixture.sigma_bar_XxP[:, :, None]
    kl_XxPxK = _x_log_y(p, p) - _x_log_y(p, q) + _x_log_y(1 - p, 1 - p) - _x_log_y(1 - p, 1 - q)
    return float(np.einsum("xk,xpk->xp", mixture.gamma_XxK, kl_XxPxK).mean())


def paper_bound(mixture: Mixture) -> float:
    """The right-hand side of Theorem 3.2: ``2 rho K E_x Var_k[m_k(x)] + H``, in nats.

    m_k(x) is read as the mean over pairs of the preference PROBABILITY of group k, not of its
    score (see ``raw_score_reading``), and the variance divides by K.
    """
    mean_XxK = mixture.sigma_XxPxK.mean(axis=1)
    return _variance_bound(mixture, float(mean_XxK.var(axis=1).mean()))


def per_pair_bound(mixture: Mixture) -> float:
    """``2 rho K E_{x,a,b} Var_k[sigma_k] + H``, with the variance taken per pair, in nats.

    It omits the step of the proof that averages over the pairs of a prompt, so it is at least as
    large as ``paper_bound``.
    """
    return _variance_bound(mixture, float(mixture.sigma_XxPxK.var(axis=2).mean()))


def _variance_bound(mixture: Mixture, variance: float) -> float:
    return 2 * mixture.rho * mixture.num_groups * variance + irreducible_entropy(mixture)


def weighted_bound(mixture: Mixture) -> float:
    """``2 E sum_k gamma_k (sigma_k - sigma_bar)^2 + H``: Pinsker's inequality alone, in nats.

    Each group keeps its weight gamma_k, which the other bounds replace by rho; it is therefore at
    least as large as ``per_pair_bound``.
    """
    square_XxPxK = (mixture.sigma_XxPxK - mixture.sigma_bar_XxP[:, :, None]) ** 2
    weighted_XxP = np.einsum("xk,xpk->xp", mixture.gamma_XxK, square_XxPxK)
    return 2 * float(weighted_XxP.mean()) + irreducible_entropy(mixture)


def raw_score_reading(gamma_XxK: Array, score_XxPxK: Array) -> float:
    """The right-hand side with m_k read as a mean of raw scores: NOT a lower bound on any loss.

    It exists for the counterexample: two groups with scores +8 and -8 give 128 + H, whereas a
    constant prediction attains log 2.

    Args:
        gamma_XxK: Probability of each group given the prompt.
        score_XxPxK: Score difference of each pair for each group, in log-odds.
    """
    mixture = Mixture(gamma_XxK, sigmoid(score_XxPxK))
    return _variance_bound(mixture, float(score_XxPxK.mean(axis=1).var(axis=1).mean()))


def misreadings() -> dict[str, dict[str, float]]:
    """Counterexamples to two literal readings of the printed theorem, in nats.

    In each case ``right_side`` exceeds ``attainable_loss``, so the reading is not a lower bound.
    """
    score_1x1x2 = np.array([[[8.0, -8.0]]])
    halves_1x2 = np.array([[0.5, 0.5]])
    opposed = Mixture(halves_1x2, np.array([[[0.9, 0.1]]]))
    loss = best_single_loss(opposed)
    variance_term = paper_bound(opposed) - irreducible_entropy(opposed)
    return {
        "raw_scores": {
            "right_side": raw_score_reading(halves_1x2, score_1x1x2),
            "attainable_loss": best_single_loss(Mixture(halves_1x2, sigmoid(score_1x1x2))),
        },
        "printed_entropy": {"right_side": variance_term + loss, "attainable_loss": loss},
    }


def random_mixture(rng: np.random.Generator) -> Mixture:
    """Draw a mixture of 1 to 3 prompts, 1 to 8 pairs per prompt and 2 to 6 groups.

    gamma is uniform on the simplex. Each group prefers one side of the pairs of a prompt, which
    makes pairs non-exchangeable; the standard deviation of the scores lies between 0.4 and 14.
    """
    # The bounds of the integers are inclusive below and exclusive above.
    prompts, pairs, groups = rng.integers((1, 1, 2), (4, 9, 7))
    gamma_XxK = rng.dirichlet(np.ones(groups), size=prompts)
    lean_Xx1xK = rng.normal(size=(prompts, 1, groups))
    taste_XxPxK = rng.normal(size=(prompts, pairs, groups))
    return Mixture(gamma_XxK, sigmoid(10 ** rng.uniform(-0.5, 1.0) * (lean_Xx1xK + taste_XxPxK)))
