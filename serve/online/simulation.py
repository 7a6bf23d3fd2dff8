"""People whose tastes are known, to see how fast ``weights`` learns them (NumPy only).

K heads judge pairs by margins with standard deviation ``scale``. A person's taste is a point ``t``
of the simplex: a corner at concentration 0 (one head is theirs), else ``Dirichlet(concentration)``.
They prefer by Bradley-Terry under ``scale' * margin @ t``, where ``scale'`` brings the person's own
margins back to ``scale``. The router knows nothing, or guesses the taste with some error. A person
is asked about pairs as they come, or about those of a pool whose answers tell most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .weights import Person, Rule, bt_losses, log_sum_exp

DRAWN = 10_000  # tastes of a crowd that stand for it
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Crowd:
    """A population. ``router``: how strongly the router's logits lean to the truth, 0 for nothing;
    ``router_noise``: standard deviation of what it errs by, per prompt, in logits; ``pool``: pairs
    of which the most telling is asked each time, 0 to ask them as they come."""

    people: int = 100
    heads: int = 10
    concentration: float = 0.0
    scale: float = 4.0
    correlation: float = 0.0
    router: float = 0.0
    router_noise: float = 0.0
    comparisons: int = 20
    pool: int = 0
    test: int = 1000
    seed: int = 0


class Outcome(NamedTuple):
    """Accuracies on unseen pairs, averaged over people, and the largest regret in nats.

    ``hindsight``: the fixed weights that fit the person's test labels best (the best of the true
    taste, the maximum-likelihood mixture and weighted reward, and every head). ``informed``: exact
    Bayes from the same answers by somebody who knows the crowd that the person was drawn from: who
    does not know it cannot be expected to do better.
    """

    online: float
    router: float
    informed: float
    hindsight: float
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
    online, router, informed, hindsight, _ = np.mean(rows, axis=0).tolist()
    return Outcome(online, router, informed, hindsight, max(row[-1] for row in rows))


def best_fixed(margin_NxK: np.ndarray, taste_K: np.ndarray) -> np.ndarray:
    """Fixed weights (K,) with the best accuracy in hindsight, by weighted reward.

    Of the true taste, exponentiated gradient on the likelihood of the mixture and of the weighted
    reward, and every single head; their accuracy is what counts, ties half.
    """
    fits = [taste_K, *np.eye(taste_K.size)]
    fits += [_fit(margin_NxK, gradient) for gradient in (_mixture_gradient, _reward_gradient)]
    return max(fits, key=lambda weights_K: accuracy(margin_NxK @ weights_K))


def accuracy(statistic_N: np.ndarray) -> float:
    """Share of pairs where the chosen one wins; ties count half."""
    return float(np.mean((statistic_N > 0) + 0.5 * (statistic_N == 0)))


def _person(crowd: Crowd, rule: Rule, rng: np.random.Generator) -> tuple[float, ...]:
    (taste_K,) = _tastes(crowd, 1, rng)
    margin_NxK = _margins(crowd, rng)
    own_N = margin_NxK @ taste_K
    wins_N = rng.random(own_N.size) < np.exp(-bt_losses(own_N * crowd.scale / own_N.std()))
    margin_NxK *= np.where(wins_N, 1.0, -1.0)[:, None]
    log_router_NxK = _router(crowd, taste_K, own_N.size, rng)

    person, asked, left = Person.new(crowd.heads), [], np.arange(_shown(crowd))
    for _ in range(crowd.comparisons):
        place = left[rule.information(person, margin_NxK[left]).argmax()] if crowd.pool else left[0]
        served = rule.served_loss(person, margin_NxK[place], log_router_NxK[place])
        person = person.after(margin_NxK[place], served)
        asked, left = [*asked, place], left[left != place]
    unseen = slice(_shown(crowd), None)
    test_NxK, log_test_NxK = margin_NxK[unseen], log_router_NxK[unseen]
    weights_NxK = np.exp(rule.log_weights(log_test_NxK, person))
    return (
        accuracy((test_NxK * weights_NxK).sum(axis=1)),
        accuracy((test_NxK * np.exp(log_test_NxK)).sum(axis=1)),
        accuracy(test_NxK @ _informed(crowd, margin_NxK[asked], rng)),
        accuracy(test_NxK @ best_fixed(test_NxK, taste_K)),
        person.regret,
    )


def _shown(crowd: Crowd) -> int:
    return max(crowd.pool, crowd.comparisons)


def _tastes(crowd: Crowd, many: int, rng: np.random.Generator) -> np.ndarray:
    if crowd.concentration:
        return rng.dirichlet(np.full(crowd.heads, crowd.concentration), many)
    return np.eye(crowd.heads)[rng.integers(crowd.heads, size=many)]


def _informed(crowd: Crowd, margin_NxK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K,) mean of the tastes of the crowd under the answers, without the router."""
    tastes_CxK = _tastes(crowd, DRAWN, rng)
    shared_C, squares_C = tastes_CxK.sum(axis=1) ** 2, (tastes_CxK**2).sum(axis=1)
    spread_Cx1 = (crowd.correlation * shared_C + (1 - crowd.correlation) * squares_C)[:, None]
    tastes_CxK = tastes_CxK / np.sqrt(spread_Cx1)  # margins of every taste are equally large
    losses_C = bt_losses(margin_NxK @ tastes_CxK.T).sum(axis=0)
    return np.exp(losses_C.min() - losses_C) @ tastes_CxK


def _margins(crowd: Crowd, rng: np.random.Generator) -> np.ndarray:
    """(N, K) margins in the order in which the pairs were shown."""
    size = (_shown(crowd) + crowd.test, crowd.heads)
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
    p_NxK = np.exp(-bt_losses(margin_NxK))
    return -(p_NxK / (p_NxK @ weights_K)[:, None]).mean(axis=0)


def _reward_gradient(margin_NxK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    wrong_N = np.exp(-bt_losses(-(margin_NxK @ weights_K)))
    return -(wrong_N[:, None] * margin_NxK).mean(axis=0)
