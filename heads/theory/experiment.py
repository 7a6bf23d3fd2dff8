"""Theorem 3.2 in numbers: bounds on random mixtures, and real heads fitted to a known mixture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...configs.theory import TheoryConfig
from ...configs.train import TrainConfig
from ..losses import mixture_log_prob
from ..model import ModelSpec, init, log_weights, margins
from ..rows import Rows
from ..training import fit
from . import bounds
from .bounds import Array, Mixture, sigmoid

BOUNDS = {
    "weighted_bound": bounds.weighted_bound,
    "per_pair_bound": bounds.per_pair_bound,
    "paper_bound": bounds.paper_bound,
}
# From the largest to the smallest: every neighbour in this chain is one inequality to check.
CHAIN = ("random_reward", "best_single", *BOUNDS, "irreducible")
TOLERANCE = 1e-12  # float64 sums of a few hundred terms below 20 nats
BINS = 20
BLOCKS = 32

IRRELEVANT = 4  # feature dimensions that nobody cares about
LEAN = 1.5  # how far the first system's answers lean towards the first group's taste
FIT = TrainConfig(
    entropy_weight=0.0, learning_rate=0.02, batch_size=256, epochs=30, router="linear"
)


def run_theory(config: TheoryConfig) -> dict[str, Any]:
    """Everything that the page shows, as plain JSON values: all numbers finite, losses in nats."""
    return {
        "config": asdict(config),
        "misreadings": bounds.misreadings(),
        "random": check_random_mixtures(config.mixtures, config.seed),
        "sweep": sweep(config),
    }


# --- random mixtures ------------------------------------------------------------------------------


def check_random_mixtures(count: int, seed: int) -> dict[str, Any]:
    """Violations of every inequality of ``CHAIN``, and the share of the exact gap each bound sees.

    Violations are counted beyond ``TOLERANCE``; ``identity_error`` is the largest difference of the
    mutual information from best loss minus H.
    """
    rng = np.random.default_rng(seed)
    values = {name: np.empty(count) for name in (*CHAIN, "gap")}
    for row in range(count):
        mixture = bounds.random_mixture(rng)
        score_XxP = rng.normal(scale=2.0, size=mixture.sigma_bar_XxP.shape)
        values["random_reward"][row] = bounds.single_loss(mixture, score_XxP)
        values["best_single"][row] = bounds.best_single_loss(mixture)
        values["irreducible"][row] = bounds.irreducible_entropy(mixture)
        values["gap"][row] = bounds.exact_gap(mixture)
        for name, bound in BOUNDS.items():
            values[name][row] = bound(mixture)
    violations = {
        f"{upper} >= {lower}": int(np.sum(values[upper] < values[lower] - TOLERANCE))
        for upper, lower in pairwise(CHAIN)
    }
    gap = values["best_single"] - values["irreducible"]
    tightness = {
        name: _distribution((values[name] - values["irreducible"]) / values["gap"])
        for name in BOUNDS
    }
    return {
        "mixtures": count,
        "violations": violations,
        "identity_error": float(np.abs(gap - values["gap"]).max()),
        "gap": _distribution(values["gap"]),
        "tightness": tightness,
    }


def _distribution(values: Array) -> dict[str, Any]:
    low, median, high = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
    counts, _ = np.histogram(values, BINS, (0.0, 1.0))
    return {"q10": low, "median": median, "q90": high, "histogram": counts.tolist()}


# --- heads fitted to a known mixture --------------------------------------------------------------


class Case(NamedTuple):
    """One panel: does the prompt tell the group, and does the order of a pair mean anything?"""

    name: str
    telling: bool
    exchangeable: bool


CASES = (
    Case("ordered", telling=True, exchangeable=False),
    Case("shuffled", telling=True, exchangeable=True),
    Case("silent", telling=False, exchangeable=False),
)


@dataclass(frozen=True)
class Population:
    """A known mixture: K kinds of prompts, K groups, linear tastes in the features of responses.

    All groups share a sense of quality and differ in a taste of their own, at equal strength. The
    two responses of a pair come from two systems, the first of which leans towards the taste of
    group 0; responses and prompt are independent.
    """

    gamma_KxK: Array
    taste_DxK: Array
    mean_D: Array

    @property
    def width(self) -> int:
        """D."""
        return self.mean_D.size

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Array, np.ndarray, np.ndarray]:
        """Training pairs, chosen minus rejected (N, D), their kinds of prompt and their groups."""
        groups = self.gamma_KxK.shape[0]
        kind_N = rng.integers(groups, size=count)
        group_N = (rng.random((count, 1)) > self.gamma_KxK[kind_N].cumsum(axis=1)).sum(axis=1)
        group_N = np.minimum(group_N, groups - 1)  # a row of gamma may sum to just below 1
        delta_NxD = self.draw_pairs(rng, count)
        score_N = np.einsum("nd,dn->n", delta_NxD, self.taste_DxK[:, group_N])
        first_wins_N = rng.random(count) < sigmoid(score_N)
        return np.where(first_wins_N[:, None], delta_NxD, -delta_NxD), kind_N, group_N

    def draw_pairs(self, rng: np.random.Generator, count: int) -> Array:
        """Features of the first response minus those of the second: (N, D)."""
        return self.mean_D + rng.normal(size=(count, self.width))


def make_population(groups: int, spread: float, clarity: float) -> Population:
    """A population whose score differences have the given standard deviation in every group.

    ``clarity`` is the probability of the group that a kind of prompt belongs to.
    """
    own_KxK = np.eye(groups) - 1 / groups  # corners of a simplex: no group is special
    own_KxK /= np.linalg.norm(own_KxK, axis=0)
    quality_1xK = np.ones((1, groups))
    irrelevant = np.zeros((IRRELEVANT, groups))
    taste_DxK = np.vstack([own_KxK, quality_1xK, irrelevant]) / np.sqrt(2)
    mean_D = np.zeros(taste_DxK.shape[0])
    mean_D[:groups] = LEAN * own_KxK[:, 0]
    others = (1 - clarity) / (groups - 1)
    gamma_KxK = np.full((groups, groups), others) + (clarity - others) * np.eye(groups)
    return Population(gamma_KxK, spread * taste_DxK, mean_D)


class Predictions(NamedTuple):
    """Log-odds of the fitted models that the first response wins, per kind of prompt or group.

    One head on the responses, one head on prompt and response jointly, the mixture whose router
    reads the prompt, and one head on group and response jointly.
    """

    single_XxP: Array
    joint_XxP: Array
    mixture_XxP: Array
    told_KxP: Array


def fit_heads(population: Population, config: TheoryConfig, delta_PxD: Array) -> Predictions:
    """Fit four models to the same ``config.pairs`` labelled pairs; predict the pairs ``delta``.

    An eighth of the labelled pairs chooses the epoch.
    """
    groups = config.num_groups
    rng = np.random.default_rng((config.seed, 1))
    chosen_NxD, kind_N, group_N = population.draw(rng, config.pairs)
    kind_NxK, group_NxK = np.eye(groups)[kind_N], np.eye(groups)[group_N]
    key = jax.random.key(config.seed)

    def train(spec: ModelSpec, delta: Array, router_input: Array) -> Any:
        rows = Rows(jnp.asarray(delta, jnp.float32), jnp.asarray(router_input, jnp.float32))
        cut = config.pairs // 8
        validation, training = Rows(*(x[:cut] for x in rows)), Rows(*(x[cut:] for x in rows))
        return fit(spec, init(spec, key), training, validation, FIT, jax.random.fold_in(key, 1))[0]

    def one_head(code_NxC: Array) -> Array:
        """A head on products of code and response features: one direction per code, (C, P)."""
        features = np.einsum("nc,nd->ncd", code_NxC, chosen_NxD).reshape(config.pairs, -1)
        spec = ModelSpec(features.shape[1], 1, "static")
        kernel = train(spec, features, features)["heads"]["kernel"]
        return np.asarray(kernel, np.float64).reshape(code_NxC.shape[1], -1) @ delta_PxD.T

    def mixture() -> Array:
        spec = ModelSpec(population.width, groups, "linear")
        padding = ((0, 0), (0, population.width - groups))
        params = train(spec, chosen_NxD, np.pad(kind_NxK, padding))
        kinds = jnp.asarray(np.pad(np.eye(groups), padding), jnp.float32)
        return _log_odds(spec, params, jnp.asarray(delta_PxD, jnp.float32), kinds)

    single_1xP = one_head(np.ones((config.pairs, 1)))
    return Predictions(
        np.repeat(single_1xP, groups, axis=0), one_head(kind_NxK), mixture(), one_head(group_NxK)
    )


def _log_odds(spec: ModelSpec, params: Any, delta_PxD: jax.Array, input_XxD: jax.Array) -> Array:
    delta_1xPxK = margins(params["heads"], delta_PxD)[None]
    log_weights_Xx1xK = log_weights(spec, params["router"], input_XxD)[:, None]
    wins, loses = (mixture_log_prob(sign * delta_1xPxK, log_weights_Xx1xK) for sign in (1, -1))
    return np.asarray(wins - loses, np.float64)


def measure(mixture: Mixture, predictions: Predictions) -> dict[str, float]:
    """Exact expected losses and bounds on the given pairs, by name, in nats.

    ``best_blind`` is the best prediction that cannot read the prompt, because the pairs are the
    same for every kind of it.
    """
    blind = Mixture(mixture.gamma_XxK.mean(axis=0, keepdims=True), mixture.sigma_XxPxK[:1])
    told_KxP = predictions.told_KxP
    sigma_KxP = mixture.sigma_XxPxK[0].T
    told_loss_K = (np.logaddexp(0.0, told_KxP) - sigma_KxP * told_KxP).mean(axis=1)
    single = bounds.single_loss(mixture, predictions.single_XxP)
    routed = bounds.single_loss(mixture, predictions.mixture_XxP)
    return {
        "irreducible": bounds.irreducible_entropy(mixture),
        **{name: bound(mixture) for name, bound in BOUNDS.items()},
        "best_single": bounds.best_single_loss(mixture),
        "best_blind": bounds.best_single_loss(blind),
        "told": float(mixture.gamma_XxK.mean(axis=0) @ told_loss_K),
        "mixture": routed,
        "joint": bounds.single_loss(mixture, predictions.joint_XxP),
        "single": single,
        "gain": single - routed,
    }


def measure_with_errors(
    mixture: Mixture, predictions: Predictions, *, exchangeable: bool
) -> dict[str, dict[str, float]]:
    """``measure`` and the standard error of each value, from ``BLOCKS`` blocks of the pairs.

    Exchangeable means that every pair counts in both orders. A loss does not notice the order.
    """

    def part(rows: np.ndarray | slice) -> dict[str, float]:
        sigma = mixture.sigma_XxPxK[:, rows]
        logits = [one[:, rows] for one in predictions]
        if exchangeable:
            sigma = np.concatenate([sigma, 1 - sigma], axis=1)
            logits = [np.concatenate([one, -one], axis=1) for one in logits]
        return measure(Mixture(mixture.gamma_XxK, sigma), Predictions(*logits))

    count = mixture.sigma_XxPxK.shape[1]
    blocks = [part(rows) for rows in np.array_split(np.arange(count), BLOCKS)]
    return {
        name: {
            "value": value,
            "standard_error": float(
                np.std([block[name] for block in blocks], ddof=1) / np.sqrt(BLOCKS)
            ),
        }
        for name, value in part(slice(None)).items()
    }


def sweep(config: TheoryConfig) -> list[dict[str, Any]]:
    """One row per case and spread: the known bounds, and the losses of the fitted heads."""
    rows = []
    for telling in (True, False):
        for spread in sorted(set(config.spreads)):
            clarity = config.clarity if telling else 1 / config.num_groups
            population = make_population(config.num_groups, spread, clarity)
            rng = np.random.default_rng((config.seed, 2))
            delta_PxD = population.draw_pairs(rng, config.pairs)
            sigma_PxK = sigmoid(delta_PxD @ population.taste_DxK)
            shape = (config.num_groups, *sigma_PxK.shape)
            mixture = Mixture(population.gamma_KxK, np.broadcast_to(sigma_PxK, shape))
            predictions = fit_heads(population, config, delta_PxD)
            for case in CASES:
                if case.telling == telling:
                    values = measure_with_errors(
                        mixture, predictions, exchangeable=case.exchangeable
                    )
                    rows.append({"case": case.name, "spread": spread, "values": values})
    return rows
