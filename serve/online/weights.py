"""A person's weights over the heads, learnt online from comparisons (pure, NumPy only).

Hedge (paper eq. 5) over C candidate tastes ``w_t``: the K heads and mixtures of them. On each
comparison, candidate t incurs the Bradley-Terry loss of its reward, in nats. Its posterior combines
the prior, its agreement with the router's weights ``f(x, c)`` of the request, and its cumulative
loss:

    l_t  =  -log sigmoid(w_t . margin)
    pi_t(x)  =  prior_t  (w_t . f(x, c))^rho  exp(-eta L_t)  /  sum ...
    w(x)  =  sum_t pi_t(x) w_t

``L_t`` is the cumulative loss over the person's comparisons. The prior spreads mass ``single``
evenly over the heads and the rest evenly over the mixtures. ``eta = 1`` is Bayes' rule; ``single =
1`` is the paper's Hedge over the heads alone, with weights proportional to ``f_k^rho exp(-eta
L_k)``.

For ``eta = 1`` and ``rho = 0`` the regret against the best head is at most ``log(K / single)`` nats
on any sequence of comparisons. For ``rho > 0`` no such bound holds, because the router may be wrong
on every prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tastes import tastes


@dataclass(frozen=True)
class Person:
    """Sufficient statistics of one person: losses summed over ``count`` comparisons, in nats.

    ``losses_C`` holds the cumulative loss of every candidate taste, the heads first. ``served`` is
    the cumulative loss of the predictions themselves, each made before its comparison was known.
    """

    count: int
    tastes_CxK: np.ndarray
    losses_C: np.ndarray
    served: float

    @classmethod
    def new(cls, heads: int) -> Person:
        """A person without comparisons."""
        tastes_CxK = tastes(heads)
        return cls(0, tastes_CxK, np.zeros(len(tastes_CxK)), 0.0)

    @property
    def losses_K(self) -> np.ndarray:
        """(K,) cumulative losses of the single heads."""
        return self.losses_C[: self.tastes_CxK.shape[1]]

    @property
    def regret(self) -> float:
        """Excess of ``served`` over the best head in hindsight, in nats."""
        return self.served - float(self.losses_K.min())

    @property
    def regret_mixture(self) -> float:
        """Excess of ``served`` over the best candidate, head or mixture; at least ``regret``."""
        return self.served - float(self.losses_C.min())

    def after(self, margin_K: np.ndarray, served: float) -> Person:
        """Return the statistics after one more comparison.

        Args:
            margin_K: Reward of the chosen minus that of the rejected response, per head.
            served: Loss of the prediction made before the answer was known, in nats.
        """
        losses_C = self.losses_C + bt_losses(self.tastes_CxK @ np.asarray(margin_K, np.float64))
        return Person(self.count + 1, self.tastes_CxK, losses_C, self.served + served)


@dataclass(frozen=True)
class HedgeRule:
    """Hyperparameters of the posterior over candidate tastes.

    Attributes:
        eta: Learning rate: the weight of one nat of loss.
        rho: Exponent of the router's weights; 0 ignores the router.
        single: Prior mass of the single heads together; the mixtures share the rest.
    """

    eta: float = 1.0
    rho: float = 1.0
    single: float = 0.8

    def log_belief(self, log_router_NxK: np.ndarray, person: Person) -> np.ndarray:
        """Log posterior ``log pi`` of the candidates, (N, C), or (C,) for a single request."""
        count, heads = person.tastes_CxK.shape
        prior_C = np.full(count, self.single / heads)
        prior_C[heads:] = (1 - self.single) / max(1, count - heads)
        # log 0 is meant: the prior or the router may rule a candidate out.
        with np.errstate(divide="ignore"):
            # Subtracting the smallest loss keeps the best candidate from underflowing.
            logits_C = np.log(prior_C) - self.eta * (person.losses_C - person.losses_C.min())
            logits_NxC = np.broadcast_to(logits_C, (*log_router_NxK.shape[:-1], count))
            if self.rho:  # 0 * -inf would be NaN
                # Agreement w_t . f: a head reads its own router weight, a mixture averages them.
                mixed_NxM = np.log(np.exp(log_router_NxK) @ person.tastes_CxK[heads:].T)
                agreement_NxC = np.concatenate([log_router_NxK, mixed_NxM], axis=-1)
                logits_NxC = logits_NxC + self.rho * agreement_NxC
        return logits_NxC - log_sum_exp(logits_NxC)[..., None]

    def log_weights(self, log_router_NxK: np.ndarray, person: Person) -> np.ndarray:
        """Log head weights for a person's requests, (N, K), or (K,) for a single request.

        A person without comparisons gets the router's weights unchanged.
        """
        if not person.count:
            return log_router_NxK
        heads = person.tastes_CxK.shape[1]
        log_belief_NxC = self.log_belief(log_router_NxK, person)
        single_NxK, mixed_NxM = np.split(log_belief_NxC, [heads], axis=-1)
        # Mass of the mixtures that underflows is negligible beside that of the heads, which stays
        # in the log domain.
        with np.errstate(divide="ignore"):
            share_NxK = np.log(np.exp(mixed_NxM) @ person.tastes_CxK[heads:])
        return np.logaddexp(single_NxK, share_NxK)

    def served_loss(self, person: Person, margin_K: np.ndarray, log_router_K: np.ndarray) -> float:
        """Log loss of the current posterior predictive on a comparison, in nats.

        ``-log sum_t pi_t sigmoid(w_t . margin)``, with ``margin_K`` the chosen minus the rejected
        response per head.
        """
        losses_C = bt_losses(person.tastes_CxK @ np.asarray(margin_K, np.float64))
        return -float(log_sum_exp(self.log_belief(log_router_K, person) - losses_C))

    def information(self, person: Person, margin_NxK: np.ndarray) -> np.ndarray:
        """(N,) mutual information of the person's answer to each pair and their taste, in nats.

        Bayesian active learning by disagreement (Houlsby et al. 2011, arXiv:1112.5745), without the
        router. It is large where likely tastes are each confident but disagree, and at most log 2.
        """
        uninformative_K = np.zeros(person.tastes_CxK.shape[1])
        belief_C = np.exp(self.log_belief(uninformative_K, person))
        win_NxC = np.exp(-bt_losses(margin_NxK @ person.tastes_CxK.T))
        # Entropy of the predictive minus the expected entropy given the taste.
        information_N = binary_entropy(win_NxC @ belief_C) - binary_entropy(win_NxC) @ belief_C
        return np.maximum(information_N, 0.0)  # rounding may go below 0


def bt_losses(margin_N: np.ndarray) -> np.ndarray:
    """Bradley-Terry loss ``-log sigmoid(margin)`` in nats, without overflow; any shape.

    >>> [round(float(loss), 4) for loss in bt_losses(np.array([2.0, -1.0, -1000.0]))]
    [0.1269, 1.3133, 1000.0]
    """
    return np.logaddexp(0.0, -np.asarray(margin_N, np.float64))


def binary_entropy(p_N: np.ndarray) -> np.ndarray:
    """Entropy of Bernoulli(p) in nats; any shape.

    >>> [round(float(entropy), 4) for entropy in binary_entropy(np.array([0.0, 0.5, 1.0]))]
    [0.0, 0.6931, 0.0]
    """
    p_N = np.clip(p_N, 1e-300, 1.0)
    q_N = np.clip(1 - p_N, 1e-300, 1.0)
    return -(p_N * np.log(p_N) + q_N * np.log(q_N))


def log_sum_exp(logits_NxK: np.ndarray) -> np.ndarray:
    """``log sum exp`` over the last axis, which must hold at least one finite value."""
    max_Nx1 = logits_NxK.max(axis=-1, keepdims=True)
    return (max_Nx1 + np.log(np.exp(logits_NxK - max_Nx1).sum(axis=-1, keepdims=True)))[..., 0]
