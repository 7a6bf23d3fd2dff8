"""Simulated people of known taste, to measure how fast ``weights`` learns it (NumPy only).

The margins of K heads are normal with standard deviation ``scale``. A person's taste ``t`` is a
point of the simplex: a random vertex (a single head) at concentration 0, else a draw from
``Dirichlet(concentration)``. Answers follow Bradley-Terry with logit ``scale' * margin @ t``, where
``scale'`` rescales the person's margins to standard deviation ``scale``. The router is
uninformative or a noisy estimate of the taste. People answer pairs in random order, or are asked
the most informative pair of a pool each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .weights import HedgeRule, Person, bt_losses, log_sum_exp

# Draws of the taste that approximate the population in the informed posterior.
TASTE_SAMPLES = 10_000
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SimulatedPeople:
    """A population of people and what each of them is asked.

    Attributes:
        people: Number of people.
        heads: Number of heads K.
        concentration: Dirichlet parameter of the tastes; 0 gives each person a single head.
        scale: Standard deviation of the margins, in logits.
        correlation: Correlation of the margins of any two heads.
        router: Coefficient of the true taste in the router's logits; 0 is an uninformative router.
        router_noise: Standard deviation of the router's noise per prompt, in logits.
        comparisons: Answers that each person gives.
        pool: Pairs from which the most informative is asked each time; 0 asks in random order.
        test: Unseen pairs per person.
        seed: Seed of all draws.
    """

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


class SimulationResult(NamedTuple):
    """Accuracy on unseen pairs, averaged over people, and the largest regret of a person.

    Attributes:
        online: Learnt weights.
        router: The router's weights alone.
        informed: Exact Bayes from the same answers under the true population prior: the best that
            can be expected of a learner without that prior.
        hindsight: The best fixed weights for the test labels themselves, see ``best_fixed``.
        regret: Largest regret of a person against the best head, in nats.
    """

    online: float
    router: float
    informed: float
    hindsight: float
    regret: float

    @property
    def gap(self) -> float:
        """Accuracy that the learnt weights lack of the best fixed ones."""
        return self.hindsight - self.online


def simulate_population(population: SimulatedPeople, rule: HedgeRule) -> SimulationResult:
    """Let every person answer their comparisons, then evaluate on their test pairs."""
    rows = [
        _simulate_person(population, rule, np.random.default_rng((population.seed, index)))
        for index in range(population.people)
    ]
    online, router, informed, hindsight, _ = np.mean(rows, axis=0).tolist()
    return SimulationResult(online, router, informed, hindsight, max(row[-1] for row in rows))


def best_fixed(margin_NxK: np.ndarray, taste_K: np.ndarray) -> np.ndarray:
    """Fixed weights (K,) whose weighted reward is most accurate on the given (N, K) margins.

    The best of the true taste, every single head, and the maximum-likelihood weights of the mixture
    model and of the weighted reward.
    """
    candidates = [taste_K, *np.eye(taste_K.size)]
    candidates += [_fit(margin_NxK, gradient) for gradient in (_mixture_gradient, _reward_gradient)]
    return max(candidates, key=lambda weights_K: accuracy(margin_NxK @ weights_K))


def accuracy(statistic_N: np.ndarray) -> float:
    """Share of pairs whose chosen response scores higher; ties count half.

    >>> accuracy(np.array([1.5, -0.5, 0.0, 2.0]))
    0.625
    """
    return float(np.mean((statistic_N > 0) + 0.5 * (statistic_N == 0)))


def _simulate_person(
    population: SimulatedPeople, rule: HedgeRule, rng: np.random.Generator
) -> tuple[float, ...]:
    (taste_K,) = _tastes(population, 1, rng)
    margin_NxK = _margins(population, rng)
    # Bradley-Terry labels; from here on a margin is chosen minus rejected.
    reward_N = margin_NxK @ taste_K
    wins_N = rng.random(reward_N.size) < np.exp(
        -bt_losses(reward_N * population.scale / reward_N.std())
    )
    margin_NxK *= np.where(wins_N, 1.0, -1.0)[:, None]
    log_router_NxK = _log_router(population, taste_K, reward_N.size, rng)

    person, asked, remaining = Person.new(population.heads), [], np.arange(_candidates(population))
    for _ in range(population.comparisons):
        index = remaining[0]
        if population.pool:
            index = remaining[rule.information(person, margin_NxK[remaining]).argmax()]
        served = rule.served_loss(person, margin_NxK[index], log_router_NxK[index])
        person = person.after(margin_NxK[index], served)
        asked, remaining = [*asked, index], remaining[remaining != index]
    unseen = slice(_candidates(population), None)
    test_NxK, log_test_NxK = margin_NxK[unseen], log_router_NxK[unseen]
    weights_NxK = np.exp(rule.log_weights(log_test_NxK, person))
    return (
        accuracy((test_NxK * weights_NxK).sum(axis=1)),
        accuracy((test_NxK * np.exp(log_test_NxK)).sum(axis=1)),
        accuracy(test_NxK @ _informed(population, margin_NxK[asked], rng)),
        accuracy(test_NxK @ best_fixed(test_NxK, taste_K)),
        person.regret,
    )


def _candidates(population: SimulatedPeople) -> int:
    """Number of pairs from which comparisons are taken; the test pairs come after them."""
    return max(population.pool, population.comparisons)


def _tastes(population: SimulatedPeople, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, K) tastes drawn from the population."""
    if population.concentration:
        return rng.dirichlet(np.full(population.heads, population.concentration), count)
    return np.eye(population.heads)[rng.integers(population.heads, size=count)]


def _informed(
    population: SimulatedPeople, margin_NxK: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(K,) posterior mean taste under the population prior, from the answers alone."""
    tastes_CxK = _tastes(population, TASTE_SAMPLES, rng)
    # Variance of margin @ t in units of scale^2: dividing by its root gives the rescaled logits.
    # A taste sums to 1, so what all heads share counts in full.
    correlation = population.correlation
    variance_C = correlation + (1 - correlation) * (tastes_CxK**2).sum(axis=1)
    tastes_CxK = tastes_CxK / np.sqrt(variance_C)[:, None]
    losses_C = bt_losses(margin_NxK @ tastes_CxK.T).sum(axis=0)
    return np.exp(losses_C.min() - losses_C) @ tastes_CxK


def _margins(population: SimulatedPeople, rng: np.random.Generator) -> np.ndarray:
    """(N, K) equicorrelated normal margins: the candidate pairs, then the test pairs."""
    size = (_candidates(population) + population.test, population.heads)
    shared_Nx1 = rng.standard_normal((size[0], 1))
    own_NxK = rng.standard_normal(size)
    correlation = population.correlation
    return population.scale * (correlation**0.5 * shared_Nx1 + (1 - correlation) ** 0.5 * own_NxK)


def _log_router(
    population: SimulatedPeople, taste_K: np.ndarray, rows: int, rng: np.random.Generator
) -> np.ndarray:
    """(rows, K) log weights of a router whose logits are the scaled taste plus noise."""
    noise_NxK = population.router_noise * rng.standard_normal((rows, population.heads))
    logits_NxK = population.router * taste_K + noise_NxK
    return logits_NxK - log_sum_exp(logits_NxK)[:, None]


def _fit(margin_NxK: np.ndarray, gradient: Gradient, steps: int = 30) -> np.ndarray:
    """Minimize a loss over the simplex by exponentiated gradient."""
    weights_K = np.full(margin_NxK.shape[1], 1 / margin_NxK.shape[1])
    for _ in range(steps):
        weights_K = weights_K * np.exp(-4.0 * gradient(margin_NxK, weights_K))
        weights_K /= weights_K.sum()
    return weights_K


def _mixture_gradient(margin_NxK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    """Gradient of the mean of ``-log sum_k w_k sigmoid(margin_k)``."""
    p_NxK = np.exp(-bt_losses(margin_NxK))
    return -(p_NxK / (p_NxK @ weights_K)[:, None]).mean(axis=0)


def _reward_gradient(margin_NxK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    """Gradient of the mean of ``-log sigmoid(w . margin)``."""
    wrong_N = np.exp(-bt_losses(-(margin_NxK @ weights_K)))
    return -(wrong_N[:, None] * margin_NxK).mean(axis=0)
