"""Check Theorem 3.2 on random mixtures, and on heads fitted to samples of a known mixture."""

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
# In descending order: each pair of neighbours is one inequality to check.
CHAIN = ("random_reward", "best_single", *BOUNDS, "irreducible")
TOLERANCE = 1e-12  # float64 sums of a few hundred terms below 20 nats
BINS = 20  # of the histograms of tightness
BLOCKS = 32  # of pairs, whose spread gives the standard errors

IRRELEVANT_DIMENSIONS = 4  # features that no group's reward depends on
LEAN = 1.5  # shift of the first system's responses towards the preferences of group 0
FIT_CONFIG = TrainConfig(
    entropy_weight=0.0, learning_rate=0.02, batch_size=256, epochs=30, router="linear"
)


def run_theory(config: TheoryConfig) -> dict[str, Any]:
    """Run both checks; returns the content of ``theory.json`` as plain JSON values.

    All numbers are finite; losses and bounds are in nats.
    """
    return {
        "config": asdict(config),
        "misreadings": bounds.misreadings(),
        "random": check_random_mixtures(config.mixtures, config.seed),
        "sweep": sweep(config),
    }


# --- random mixtures ------------------------------------------------------------------------------


def check_random_mixtures(count: int, seed: int) -> dict[str, Any]:
    """Count violations of the inequalities in ``CHAIN`` and measure how tight the bounds are.

    Args:
        count: Number of random mixtures.
        seed: Of the mixtures.

    Returns:
        ``violations`` per inequality, beyond ``TOLERANCE``; ``identity_error``, the largest
        deviation of the mutual information from best loss minus H; the distributions of the exact
        ``gap`` in nats and of the ``tightness`` of each bound, its share of that gap.
    """
    rng = np.random.default_rng(seed)
    values = {name: np.empty(count) for name in (*CHAIN, "gap")}
    for index in range(count):
        mixture = bounds.random_mixture(rng)
        score_XxP = rng.normal(scale=2.0, size=mixture.sigma_bar_XxP.shape)
        values["random_reward"][index] = bounds.single_loss(mixture, score_XxP)
        values["best_single"][index] = bounds.best_single_loss(mixture)
        values["irreducible"][index] = bounds.irreducible_entropy(mixture)
        values["gap"][index] = bounds.exact_gap(mixture)
        for name, bound in BOUNDS.items():
            values[name][index] = bound(mixture)
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
    """Deciles, median and a histogram over [0, 1]."""
    low, median, high = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
    counts, _ = np.histogram(values, BINS, (0.0, 1.0))
    return {"q10": low, "median": median, "q90": high, "histogram": counts.tolist()}


# --- heads fitted to a known mixture --------------------------------------------------------------


class Case(NamedTuple):
    """One panel of the page.

    ``informative`` means that the prompt depends on the group, ``exchangeable`` that the order of
    the two responses carries no information.
    """

    name: str
    informative: bool
    exchangeable: bool


CASES = (
    Case("ordered", informative=True, exchangeable=False),
    Case("shuffled", informative=True, exchangeable=True),
    Case("silent", informative=False, exchangeable=False),
)


@dataclass(frozen=True)
class Population:
    """A known mixture of K groups with rewards that are linear in the features of a response.

    There are K kinds of prompts. The reward of a group adds a quality that all groups share and a
    taste of its own, at equal strength. The two responses of a pair come from two systems, the
    first of which leans towards the taste of group 0. Responses are independent of the prompt.

    Attributes:
        gamma_KxK: Probability of each group (columns) given the kind of prompt (rows).
        taste_DxK: Reward weights of each group.
        mean_D: Mean feature difference, first minus second response.
    """

    gamma_KxK: Array
    taste_DxK: Array
    mean_D: Array

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.mean_D.size

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Array, np.ndarray, np.ndarray]:
        """Draw labelled pairs.

        Returns:
            Features of the chosen minus the rejected response, (N, D), the kind of each prompt and
            the group of each user, (N,).
        """
        groups = self.gamma_KxK.shape[0]
        kind_N = rng.integers(groups, size=count)
        # Inverse transform sampling: count the cumulative probabilities below a uniform draw.
        group_N = (rng.random((count, 1)) > self.gamma_KxK[kind_N].cumsum(axis=1)).sum(axis=1)
        group_N = np.minimum(group_N, groups - 1)  # a row of gamma may sum to just below 1
        delta_NxD = self.draw_pairs(rng, count)
        score_N = np.einsum("nd,dn->n", delta_NxD, self.taste_DxK[:, group_N])
        first_wins_N = rng.random(count) < sigmoid(score_N)
        return np.where(first_wins_N[:, None], delta_NxD, -delta_NxD), kind_N, group_N

    def draw_pairs(self, rng: np.random.Generator, count: int) -> Array:
        """Draw features of the first minus the second response, unlabelled, (N, D)."""
        return self.mean_D + rng.normal(size=(count, self.width))


def make_population(groups: int, spread: float, clarity: float) -> Population:
    """Build a population whose groups have score differences of equal standard deviation.

    Args:
        groups: K, the number of groups and of kinds of prompts.
        spread: Standard deviation of the score differences, log-odds.
        clarity: Probability of group k given a prompt of kind k; 1/K makes prompts uninformative.
    """
    own_KxK = np.eye(groups) - 1 / groups  # corners of a simplex: no group is special
    own_KxK /= np.linalg.norm(own_KxK, axis=0)
    quality_1xK = np.ones((1, groups))
    irrelevant = np.zeros((IRRELEVANT_DIMENSIONS, groups))
    taste_DxK = np.vstack([own_KxK, quality_1xK, irrelevant]) / np.sqrt(2)
    mean_D = np.zeros(taste_DxK.shape[0])
    mean_D[:groups] = LEAN * own_KxK[:, 0]
    others = (1 - clarity) / (groups - 1)
    gamma_KxK = np.full((groups, groups), others) + (clarity - others) * np.eye(groups)
    return Population(gamma_KxK, spread * taste_DxK, mean_D)


class Predictions(NamedTuple):
    """Log-odds that the first response wins, under each fitted model.

    Attributes:
        single_XxP: One head on the response.
        joint_XxP: One head on products of prompt and response features.
        mixture_XxP: A mixture of heads with a router that reads the prompt.
        informed_KxP: One head that is given the group, on products of group and response features.
    """

    single_XxP: Array
    joint_XxP: Array
    mixture_XxP: Array
    informed_KxP: Array


def fit_heads(population: Population, config: TheoryConfig, delta_PxD: Array) -> Predictions:
    """Fit the four models to the same labelled pairs and predict other pairs.

    Args:
        population: Where the labelled pairs are drawn from.
        config: Number of pairs and groups, and the seed. An eighth of the pairs is held out to
            select the epoch.
        delta_PxD: Feature differences of the pairs to predict.
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
        return fit(
            spec, init(spec, key), training, validation, FIT_CONFIG, jax.random.fold_in(key, 1)
        )[0]

    def one_head(code_NxC: Array) -> Array:
        """Fit a head on products of code and response features; returns log-odds (C, P).

        With a one-hot code this is a linear reward of its own for each code.
        """
        features = np.einsum("nc,nd->ncd", code_NxC, chosen_NxD).reshape(config.pairs, -1)
        spec = ModelSpec(features.shape[1], 1, "static")
        kernel = train(spec, features, features)["heads"]["kernel"]
        return np.asarray(kernel, np.float64).reshape(code_NxC.shape[1], -1) @ delta_PxD.T

    def mixture() -> Array:
        spec = ModelSpec(population.width, groups, "linear")
        padding = ((0, 0), (0, population.width - groups))
        # The router expects inputs as wide as the responses.
        params = train(spec, chosen_NxD, np.pad(kind_NxK, padding))
        kinds = jnp.asarray(np.pad(np.eye(groups), padding), jnp.float32)
        return _log_odds(spec, params, jnp.asarray(delta_PxD, jnp.float32), kinds)

    single_1xP = one_head(np.ones((config.pairs, 1)))
    return Predictions(
        np.repeat(single_1xP, groups, axis=0), one_head(kind_NxK), mixture(), one_head(group_NxK)
    )


def _log_odds(spec: ModelSpec, params: Any, delta_PxD: jax.Array, input_XxD: jax.Array) -> Array:
    """Log-odds (X, P) of a mixture for every combination of router input and pair."""
    delta_1xPxK = margins(params["heads"], delta_PxD)[None]
    log_weights_Xx1xK = log_weights(spec, params["router"], input_XxD)[:, None]
    wins, loses = (mixture_log_prob(sign * delta_1xPxK, log_weights_Xx1xK) for sign in (1, -1))
    return np.asarray(wins - loses, np.float64)


def measure(mixture: Mixture, predictions: Predictions) -> dict[str, float]:
    """Expected losses and bounds on the given pairs, in nats.

    Expectations over labels, groups and prompts are exact; only the pairs are a sample.

    Args:
        mixture: The true probabilities on the pairs, which must be the same for every prompt.
        predictions: Log-odds of the fitted models on these pairs.

    Returns:
        Values by name. ``best_blind`` is the least loss of a prediction that reads neither group
        nor prompt, ``told`` the loss of the head that is given the group, ``gain`` that of the
        single head minus that of the mixture.
    """
    # Averaging gamma over prompts is valid because sigma does not depend on the prompt.
    blind = Mixture(mixture.gamma_XxK.mean(axis=0, keepdims=True), mixture.sigma_XxPxK[:1])
    informed_KxP = predictions.informed_KxP
    sigma_KxP = mixture.sigma_XxPxK[0].T
    informed_loss_K = (np.logaddexp(0.0, informed_KxP) - sigma_KxP * informed_KxP).mean(axis=1)
    single = bounds.single_loss(mixture, predictions.single_XxP)
    routed = bounds.single_loss(mixture, predictions.mixture_XxP)
    return {
        "irreducible": bounds.irreducible_entropy(mixture),
        **{name: bound(mixture) for name, bound in BOUNDS.items()},
        "best_single": bounds.best_single_loss(mixture),
        "best_blind": bounds.best_single_loss(blind),
        "told": float(mixture.gamma_XxK.mean(axis=0) @ informed_loss_K),
        "mixture": routed,
        "joint": bounds.single_loss(mixture, predictions.joint_XxP),
        "single": single,
        "gain": single - routed,
    }


def measure_with_errors(
    mixture: Mixture, predictions: Predictions, *, exchangeable: bool
) -> dict[str, dict[str, float]]:
    """``measure`` with a standard error for each value, from ``BLOCKS`` blocks of pairs.

    Args:
        mixture: As for ``measure``.
        predictions: As for ``measure``.
        exchangeable: Whether every pair counts in both orders. Losses are invariant to the order,
            bounds need not be.
    """

    def measure_pairs(rows: np.ndarray | slice) -> dict[str, float]:
        sigma = mixture.sigma_XxPxK[:, rows]
        logits = [log_odds[:, rows] for log_odds in predictions]
        if exchangeable:
            sigma = np.concatenate([sigma, 1 - sigma], axis=1)
            logits = [np.concatenate([log_odds, -log_odds], axis=1) for log_odds in logits]
        return measure(Mixture(mixture.gamma_XxK, sigma), Predictions(*logits))

    count = mixture.sigma_XxPxK.shape[1]
    blocks = [measure_pairs(rows) for rows in np.array_split(np.arange(count), BLOCKS)]
    return {
        name: {
            "value": value,
            "standard_error": float(
                np.std([block[name] for block in blocks], ddof=1) / np.sqrt(BLOCKS)
            ),
        }
        for name, value in measure_pairs(slice(None)).items()
    }


def sweep(config: TheoryConfig) -> list[dict[str, Any]]:
    """Fit the models at every spread; returns bounds and losses per case and spread."""
    rows = []
    for informative in (True, False):
        for spread in sorted(set(config.spreads)):
            clarity = config.clarity if informative else 1 / config.num_groups
            population = make_population(config.num_groups, spread, clarity)
            rng = np.random.default_rng((config.seed, 2))
            delta_PxD = population.draw_pairs(rng, config.pairs)
            # Responses are independent of the prompt, so every kind of prompt has the same pairs.
            sigma_PxK = sigmoid(delta_PxD @ population.taste_DxK)
            shape = (config.num_groups, *sigma_PxK.shape)
            mixture = Mixture(population.gamma_KxK, np.broadcast_to(sigma_PxK, shape))
            predictions = fit_heads(population, config, delta_PxD)
            for case in CASES:
                if case.informative == informative:
                    values = measure_with_errors(
                        mixture, predictions, exchangeable=case.exchangeable
                    )
                    rows.append({"case": case.name, "spread": spread, "values": values})
    return rows
