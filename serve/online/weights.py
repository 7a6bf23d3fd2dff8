"""A person's weights over the heads, learnt from comparisons one by one (pure, NumPy only).

Hedge (paper eq. 5) over C candidate tastes ``w_t``: the K heads, and mixtures of them. A comparison
costs candidate t what its reward loses on it, in nats, and candidates are believed by what they
have lost so far and by how well they agree with the router's weights ``f(x, c)`` of the request:

    l_t  =  -log sigmoid(w_t . margin)
    pi_t(x)  =  prior_t  (w_t . f(x, c))^rho  exp(-eta L_t)  /  sum ...
    w(x)  =  sum_t pi_t(x) w_t

``L_t`` is the sum of the person's losses; ``prior`` gives ``single`` to the heads together and the
rest to the mixtures, evenly. With ``eta = 1`` this is Bayes' rule, and with ``single = 1`` the
paper's Hedge over the heads, whose weights are ``f_k^rho exp(-eta L_k)``. With ``eta = 1`` and
``rho = 0`` the belief loses at most ``log(K / single)`` nats more than the best head over any
sequence of comparisons; with ``rho > 0`` there is no such bound, for the router's opinion of every
single prompt may be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tastes import tastes


@dataclass(frozen=True)
class Person:
    """What is kept of a person: sums over ``count`` comparisons, in nats.

    ``losses_C`` per candidate taste, the heads first; ``served`` that of what was believed before
    each comparison was known.
    """

    count: int
    tastes_CxK: np.ndarray
    losses_C: np.ndarray
    served: float

    @classmethod
    def new(cls, heads: int) -> Person:
        """Somebody who has said nothing."""
        tastes_CxK = tastes(heads)
        return cls(0, tastes_CxK, np.zeros(len(tastes_CxK)), 0.0)

    @property
    def losses_K(self) -> np.ndarray:
        """Of the heads alone."""
        return self.losses_C[: self.tastes_CxK.shape[1]]

    @property
    def regret(self) -> float:
        """By how much the belief lost more than the best head in hindsight."""
        return self.served - float(self.losses_K.min())

    @property
    def regret_mixture(self) -> float:
        """The same against the best candidate, head or mixture; never below ``regret``."""
        return self.served - float(self.losses_C.min())

    def after(self, margin_K: np.ndarray, served: float) -> Person:
        """The same person one comparison later. ``margin_K``: chosen minus rejected, per head."""
        losses_C = self.losses_C + bt_losses(self.tastes_CxK @ np.asarray(margin_K, np.float64))
        return Person(self.count + 1, self.tastes_CxK, losses_C, self.served + served)


@dataclass(frozen=True)
class Rule:
    """How fast a person is learnt (``eta``), how far the router is believed (``rho``), and how
    likely it is beforehand that one head alone is a person's (``single``)."""

    eta: float = 1.0
    rho: float = 1.0
    single: float = 0.8

    def log_belief(self, log_router_NxK: np.ndarray, person: Person) -> np.ndarray:
        """(N, C) log probabilities of the candidate tastes, or (C,) for one request: ``log pi``."""
        many, heads = person.tastes_CxK.shape
        prior_C = np.full(many, self.single / heads)
        prior_C[heads:] = (1 - self.single) / max(1, many - heads)
        with np.errstate(divide="ignore"):  # a prior or a router may exclude
            logits_C = np.log(prior_C) - self.eta * (person.losses_C - person.losses_C.min())
            logits_NxC = np.broadcast_to(logits_C, (*log_router_NxK.shape[:-1], many))
            if self.rho:  # 0 * -inf is not a number
                mixed_NxM = np.log(np.exp(log_router_NxK) @ person.tastes_CxK[heads:].T)
                agree_NxC = np.concatenate([log_router_NxK, mixed_NxM], axis=-1)
                logits_NxC = logits_NxC + self.rho * agree_NxC
        return logits_NxC - log_sum_exp(logits_NxC)[..., None]

    def log_weights(self, log_router_NxK: np.ndarray, person: Person) -> np.ndarray:
        """Log weights of a person's requests: (N, K), or (K,) for one; a stranger's are the
        router's."""
        if not person.count:
            return log_router_NxK
        heads = person.tastes_CxK.shape[1]
        log_belief_NxC = self.log_belief(log_router_NxK, person)
        alone_NxK, mixed_NxM = np.split(log_belief_NxC, [heads], axis=-1)
        with np.errstate(divide="ignore"):  # what underflows here is nothing beside the heads
            share_NxK = np.log(np.exp(mixed_NxM) @ person.tastes_CxK[heads:])
        return np.logaddexp(alone_NxK, share_NxK)

    def served_loss(self, person: Person, margin_K: np.ndarray, log_router_K: np.ndarray) -> float:
        """What the belief of this moment loses on a comparison, in nats:
        ``-log sum_t pi_t sigmoid(w_t . margin)``."""
        losses_C = bt_losses(person.tastes_CxK @ np.asarray(margin_K, np.float64))
        return -float(log_sum_exp(self.log_belief(log_router_K, person) - losses_C))

    def information(self, person: Person, margin_NxK: np.ndarray) -> np.ndarray:
        """(N,) what a person's answer on each pair would tell of their taste, in nats.

        The mutual information of answer and taste (Houlsby et al. 2011, arXiv:1112.5745), whatever
        the router says: large where the likely tastes disagree and each of them is sure; at most
        log 2.
        """
        says_nothing_K = np.zeros(person.tastes_CxK.shape[1])
        belief_C = np.exp(self.log_belief(says_nothing_K, person))
        win_NxC = np.exp(-bt_losses(margin_NxK @ person.tastes_CxK.T))
        told_N = binary_entropy(win_NxC @ belief_C) - binary_entropy(win_NxC) @ belief_C
        return np.maximum(told_N, 0.0)


def bt_losses(margin_N: np.ndarray) -> np.ndarray:
    """``-log sigmoid(margin)`` without overflow, in nats; any shape.

    >>> [round(float(loss), 4) for loss in bt_losses(np.array([2.0, -1.0, -1000.0]))]
    [0.1269, 1.3133, 1000.0]
    """
    return np.logaddexp(0.0, -np.asarray(margin_N, np.float64))


def binary_entropy(p_N: np.ndarray) -> np.ndarray:
    """Of a coin that falls on one side with probability p, in nats; any shape.

    >>> [round(float(entropy), 4) for entropy in binary_entropy(np.array([0.0, 0.5, 1.0]))]
    [0.0, 0.6931, 0.0]
    """
    p_N = np.clip(p_N, 1e-300, 1.0)
    other_N = np.clip(1 - p_N, 1e-300, 1.0)
    return -(p_N * np.log(p_N) + other_N * np.log(other_N))


def log_sum_exp(logits_NxK: np.ndarray) -> np.ndarray:
    """``log sum_k exp(logits)`` over the last axis, of which one at least is finite."""
    most_Nx1 = logits_NxK.max(axis=-1, keepdims=True)
    return (most_Nx1 + np.log(np.exp(logits_NxK - most_Nx1).sum(axis=-1, keepdims=True)))[..., 0]
