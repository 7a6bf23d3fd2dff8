"""The quantities of Theorem 3.2 for a mixture of which everything is known; NumPy, float64, nats.

A prompt x belongs to group k with probability gamma_k(x); a person of group k prefers the first
response of a pair with probability sigma_k(x, a, b). All prompts, and all pairs of a prompt, count
alike. Source: paper, theorem 3.2, with the three readings that the page spells out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import UserError

Array = NDArray[np.float64]


class MixtureError(UserError):
    """Arrays that describe no mixture; the message says what is wrong with them."""


@dataclass(frozen=True)
class Mixture:
    """Group probabilities of every prompt and preferences of every group.

    Attributes:
        gamma_XxK: Each row on the simplex.
        sigma_XxPxK: Probabilities that the first response is preferred.

    Raises:
        MixtureError: The shapes differ or the numbers are no probabilities.
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
        """K."""
        return self.gamma_XxK.shape[1]

    @property
    def rho(self) -> float:
        """Smallest group probability of any prompt, the rho of the theorem; at most 1/K."""
        return float(self.gamma_XxK.min())

    @property
    def sigma_bar_XxP(self) -> Array:
        """Share of all people who prefer the first response: the best single prediction."""
        return np.einsum("xk,xpk->xp", self.gamma_XxK, self.sigma_XxPxK)


def sigmoid(score: ArrayLike) -> Array:
    """``1 / (1 + exp(-score))`` without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(score, np.float64)))


def _x_log_y(x: Array, y: Array) -> Array:
    """``x log y`` with ``0 log y = 0``."""
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)


def binary_entropy(probability: ArrayLike) -> Array:
    """h(p), the entropy of a coin, elementwise, in nats; h(0) = h(1) = 0.

    >>> round(float(binary_entropy(0.1)), 6)
    0.325083
    """
    p = np.asarray(probability, np.float64)
    return -_x_log_y(p, p) - _x_log_y(1 - p, 1 - p)


def irreducible_entropy(mixture: Mixture) -> float:
    """H, the mean of h(sigma_k): the loss of the true model of somebody whose group is known.

    The printed definition has sigma_r inside the logarithms, which would be the loss itself.
    """
    entropy_XxPxK = binary_entropy(mixture.sigma_XxPxK)
    return float(np.einsum("xk,xpk->xp", mixture.gamma_XxK, entropy_XxPxK).mean())


def single_loss(mixture: Mixture, score_XxP: Array) -> float:
    """L_CE of one model that gives every pair the score difference r(x, a) - r(x, b)."""
    return float(np.mean(np.logaddexp(0.0, score_XxP) - mixture.sigma_bar_XxP * score_XxP))


def best_single_loss(mixture: Mixture) -> float:
    """Mean of h(sigma_bar): no prediction that does not know the group has a smaller loss."""
    return float(binary_entropy(mixture.sigma_bar_XxP).mean())


def exact_gap(mixture: Mixture) -> float:
    """``best_single_loss - H`` = I(y; z | x, a, b): what the group z says about the label y.

    Computed on its own, as the mean of KL(Ber sigma_k || Ber sigma_bar), and not as a difference.
    """
    p, q = mixture.sigma_XxPxK, mixture.sigma_bar_XxP[:, :, None]
    kl_XxPxK = _x_log_y(p, p) - _x_log_y(p, q) + _x_log_y(1 - p, 1 - p) - _x_log_y(1 - p, 1 - q)
    return float(np.einsum("xk,xpk->xp", mixture.gamma_XxK, kl_XxPxK).mean())


def paper_bound(mixture: Mixture) -> float:
    """``2 rho K E_x Var_k[m_k(x)] + H``, the right side of the theorem.

    m_k(x) is the mean PROBABILITY of group k over the pairs of x, and the variance divides by K.
    """
    mean_XxK = mixture.sigma_XxPxK.mean(axis=1)
    return _variance_bound(mixture, float(mean_XxK.var(axis=1).mean()))


def per_pair_bound(mixture: Mixture) -> float:
    """``2 rho K E_{x,a,b} Var_k[sigma_k] + H``: the variance of every pair, then the mean.

    The proof without its averaging step; at least the paper's bound.
    """
    return _variance_bound(mixture, float(mixture.sigma_XxPxK.var(axis=2).mean()))


def _variance_bound(mixture: Mixture, variance: float) -> float:
    return 2 * mixture.rho * mixture.num_groups * variance + irreducible_entropy(mixture)


def weighted_bound(mixture: Mixture) -> float:
    """``2 E sum_k gamma_k (sigma_k - sigma_bar)^2 + H``: Pinsker's inequality and nothing else.

    The groups keep their own weights instead of rho; at least the per-pair bound.
    """
    square_XxPxK = (mixture.sigma_XxPxK - mixture.sigma_bar_XxP[:, :, None]) ** 2
    weighted_XxP = np.einsum("xk,xpk->xp", mixture.gamma_XxK, square_XxPxK)
    return 2 * float(weighted_XxP.mean()) + irreducible_entropy(mixture)


def raw_score_reading(gamma_XxK: Array, score_XxPxK: Array) -> float:
    """The paper's right side with m_k read as a mean of raw scores: NOT a lower bound of any loss.

    It exists to show the counter-example: two groups of scores +8 and -8 give 128 + H, while a
    constant prediction already reaches log 2.
    """
    mixture = Mixture(gamma_XxK, sigmoid(score_XxPxK))
    return _variance_bound(mixture, float(score_XxPxK.mean(axis=1).var(axis=1).mean()))


def misreadings() -> dict[str, dict[str, float]]:
    """The two readings of the printed statement that cannot be meant, each on an example."""
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
    """1 to 3 prompts of 1 to 8 pairs, 2 to 6 groups; gamma uniform on the simplex.

    Every group leans one way on every prompt, so that pairs are not exchangeable; the scores have
    a spread between 0.4 and 14.
    """
    prompts, pairs, groups = rng.integers((1, 1, 2), (4, 9, 7))
    gamma_XxK = rng.dirichlet(np.ones(groups), size=prompts)
    lean_Xx1xK = rng.normal(size=(prompts, 1, groups))
    taste_XxPxK = rng.normal(size=(prompts, pairs, groups))
    return Mixture(gamma_XxK, sigmoid(10 ** rng.uniform(-0.5, 1.0) * (lean_Xx1xK + taste_XxPxK)))
