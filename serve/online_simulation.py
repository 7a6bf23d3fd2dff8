"""People whose tastes are known, to see how fast ``online_weights`` learns them (NumPy only).

K heads judge pairs by margins with standard deviation ``scale``. A person's taste is a point ``t``
of the simplex: a corner at concentration 0 (one head is theirs), else ``Dirichlet(concentration)``.
They prefer by Bradley-Terry under ``scale' * margin @ t``, where ``scale'`` brings the person's own
margins back to ``scale``. The router knows nothing, or guesses the taste with some error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .online_weights import Person, Rule, head_losses, log_sum_exp

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Crowd:
    """A population. ``router``: how strongly the router's logits lean to the truth, 0 for nothing;
    ``router_noise``: standard deviation of what it errs by, per prompt, in logits."""

    people: int = 100
    heads: int = 10
    concentration: float = 0.0
    scale: float = 4.0
    correlation: float = 0.0
    router: float = 0.0
    router_noise: float = 0.0
    comparisons: int = 20
    test: int = 1000
    seed: int = 0


class Outcome(NamedTuple):
    """Accuracies on unseen pairs, averaged over people, and the largest regret in nats.

    ``hindsight``: the fixed weights that fit the person's test labels best (the better of the
    maximum-likelihood mixture, the maximum-likelihood weighted reward and the best head).
    """

    online: float
    router: float
    hindsight: float
    truth: float
    regret: float

    @property
    def gap(self) -> float:
        """How far the person's weights are behind the best fixed ones."""
        return self.hindsight - self.online


def simulate(crowd: Crowd, rule: Rule) -> Outcome:
    """Every person of a crowd: their comparisons one by one, then their test pairs."""
    rows = [
        _person(crowd, rule, np.random.default_rng((crowd.seed, number)))
        for number in range(crowd.people)
    ]
    online, router, hindsight, truth, regret = np.array(rows).T
    return Outcome(
        float(online.mean()),
        float(router.mean()),
        float(hindsight.mean()),
        float(truth.mean()),
        float(regret.max()),
    )


def best_fixed(margin_NxK: np.ndarray) -> np.ndarray:
    """Fixed weights (K,) with the best accuracy in hindsight among three fits, by weighted reward.

    Exponentiated gradient on the likelihood of the mixture and of the weighted reward, and every
    single head; their accuracy is what counts, ties half.
    """
    heads = margin_NxK.shape[1]
    fits = [*np.eye(heads), _fit(margin_NxK, _mixture_gradient), _fit(margin_NxK, _reward_gradient)]
    return max(fits, key=lambda weights_K: accuracy(margin_NxK @ weights_K))


def accuracy(statistic_N: np.ndarray) -> float:
    """Share of pairs where the chosen one wins; ties count half."""
    return float(np.mean((statistic_N > 0) + 0.5 * (statistic_N == 0)))


def _person(crowd: Crowd, rule: Rule, rng: np.random.Generator) -> tuple[float, ...]:
    taste_K = np.eye(crowd.heads)[rng.integers(crowd.heads)]
    if crowd.concentration:
        taste_K = rng.dirichlet(np.full(crowd.heads, crowd.concentration))
    margin_NxK = _margins(crowd, rng)
    own_N = margin_NxK @ taste_K
    own_N *= crowd.scale / own_N.std()
    wins_N = rng.random(own_N.size) < np.exp(-head_losses(own_N))
    sign_N = np.where(wins_N, 1.0, -1.0)
    margin_NxK, own_N = sign_N[:, None] * margin_NxK, sign_N * own_N
    log_router_NxK = _router(crowd, taste_K, own_N.size, rng)

    person = Person.new(crowd.heads)
    for place in range(crowd.comparisons):
        served = person.served_loss(margin_NxK[place], log_router_NxK[place], rule)
        person = person.after(margin_NxK[place], served)
    unseen = slice(crowd.comparisons, None)
    test_NxK, log_test_NxK = margin_NxK[unseen], log_router_NxK[unseen]
    weights_NxK = np.exp(rule.log_weights(log_test_NxK, person.losses_K))
    return (
        accuracy((test_NxK * weights_NxK).sum(axis=1)),
        accuracy((test_NxK * np.exp(log_test_NxK)).sum(axis=1)),
        accuracy(test_NxK @ best_fixed(test_NxK)),
        accuracy(own_N[unseen]),
        person.regret,
    )


def _margins(crowd: Crowd, rng: np.random.Generator) -> np.ndarray:
    """(N, K) margins in the order in which the pairs were shown."""
    size = (crowd.comparisons + crowd.test, crowd.heads)
    shared_Nx1 = rng.standard_normal((size[0], 1))
    own = rng.standard_normal(size)
    share = crowd.correlation
    return crowd.scale * (share**0.5 * shared_Nx1 + (1 - share) ** 0.5 * own)


def _router(crowd: Crowd, taste_K: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    noise_NxK = crowd.router_noise * rng.standard_normal((rows, crowd.heads))
    logits_NxK = crowd.router * taste_K + noise_NxK
    return logits_NxK - log_sum_exp(logits_NxK)[:, None]


def _fit(margin_NxK: np.ndarray, gradient: Gradient, steps: int = 30) -> np.ndarray:
    weights_K = np.full(margin_NxK.shape[1], 1 / margin_NxK.shape[1])
    for _ in range(steps):
        weights_K = weights_K * np.exp(-4.0 * gradient(margin_NxK, weights_K))
        weights_K /= weights_K.sum()
    return weights_K


def _mixture_gradient(margin_NxK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    p_NxK = np.exp(-head_losses(margin_NxK))
    return -(p_NxK / (p_NxK @ weights_K)[:, None]).mean(axis=0)


def _reward_gradient(margin_NxK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    wrong_N = np.exp(-head_losses(-(margin_NxK @ weights_K)))
    return -(wrong_N[:, None] * margin_NxK).mean(axis=0)
