"""A person's weights over the heads, learnt from comparisons one by one (pure, NumPy only).

Every comparison costs head k its loss ``l_k = -log sigmoid(margin_k)``, in nats. Hedge (paper
eq. 5) weighs the heads by what they have lost so far; for a new request the router's weights
``f(x, c)`` stand in front as a prior:

    w_k(x, c)  =  f_k(x, c)^rho  exp(-eta L_k)  /  sum_j f_j(x, c)^rho  exp(-eta L_j)

``L_k`` is the sum of the person's losses. With ``eta = 1`` and ``rho = 0`` this is Bayes' rule for
"one of the heads is mine", and the loss of the mixture over any sequence of comparisons is at most
that of the best head plus ``log K`` nats. With ``rho > 0`` there is no such bound: the router's
opinion of every single prompt may be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Person:
    """What is kept of a person: sums over ``count`` comparisons, in nats.

    ``losses_K`` per head; ``mixture`` that of the weights as they were before each comparison was
    known, which is what was served.
    """

    count: int
    losses_K: np.ndarray
    mixture: float

    @classmethod
    def new(cls, heads: int) -> Person:
        """Somebody who has said nothing."""
        return cls(0, np.zeros(heads), 0.0)

    @property
    def regret(self) -> float:
        """By how much the served mixture lost more than the best head in hindsight."""
        return self.mixture - float(self.losses_K.min())

    def served_loss(self, margin_K: np.ndarray, log_router_K: np.ndarray, rule: Rule) -> float:
        """What the weights of this moment lose on a comparison: ``-log sum_k w_k p_k``, in nats."""
        log_weights_K = rule.log_weights(log_router_K, self.losses_K)
        return -float(log_sum_exp(log_weights_K - head_losses(margin_K)))

    def after(self, margin_K: np.ndarray, served: float) -> Person:
        """The same person one comparison later. ``margin_K``: chosen minus rejected, per head."""
        losses_K = self.losses_K + head_losses(margin_K)
        return Person(self.count + 1, losses_K, self.mixture + served)


@dataclass(frozen=True)
class Rule:
    """How fast a person is learnt (``eta``) and how far the router is believed (``rho``)."""

    eta: float = 1.0
    rho: float = 1.0

    def log_weights(self, log_router_NxK: np.ndarray, losses_K: np.ndarray) -> np.ndarray:
        """Log weights of a person's requests: (N, K), or (K,) for one.

        A head to which the router gives nothing keeps nothing, whatever ``rho`` above 0.
        """
        # 0 * -inf is not a number; a router that is not believed says nothing.
        prior_NxK = self.rho * log_router_NxK if self.rho else np.zeros_like(log_router_NxK)
        logits_NxK = prior_NxK - self.eta * (losses_K - losses_K.min())
        return logits_NxK - log_sum_exp(logits_NxK)[..., None]


def head_losses(margin_NxK: np.ndarray) -> np.ndarray:
    """``-log sigmoid(margin)`` without overflow, in nats.

    >>> [round(float(loss), 4) for loss in head_losses(np.array([2.0, -1.0, -1000.0]))]
    [0.1269, 1.3133, 1000.0]
    """
    return np.logaddexp(0.0, -np.asarray(margin_NxK, np.float64))


def log_sum_exp(logits_NxK: np.ndarray) -> np.ndarray:
    """``log sum_k exp(logits)`` over the last axis."""
    most_Nx1 = logits_NxK.max(axis=-1, keepdims=True)
    return (most_Nx1 + np.log(np.exp(logits_NxK - most_Nx1).sum(axis=-1, keepdims=True)))[..., 0]
