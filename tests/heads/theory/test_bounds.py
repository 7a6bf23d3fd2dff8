"""Theorem 3.2 on known mixtures: golden values, the order of the bounds, false readings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.common.errors import UserError
from micro_rm.heads.theory import bounds
from micro_rm.heads.theory.bounds import Mixture, MixtureError

# gamma, sigma, H, bound of the paper, weighted bound, best loss
TABLE = [
    ((0.5, 0.5), (0.9, 0.1), 0.325083, 0.645083, 0.645083, 0.693147),
    ((0.7, 0.3), (0.9, 0.2), 0.377679, 0.524679, 0.583479, 0.619101),
    ((0.2, 0.3, 0.5), (0.9, 0.5, 0.2), 0.523162, 0.621829, 0.667362, 0.683315),
]


def one_pair(gamma_K: Any, sigma_K: Any) -> Mixture:
    return Mixture(np.array([gamma_K], float), np.array([[sigma_K]], float))


@st.composite
def mixtures(draw: Any) -> Mixture:
    """Any mixture of up to 3 prompts, 4 pairs and 4 groups; 0 and 1 are probabilities as well."""
    x, p, k = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 4)))
    # A subnormal sigma times gamma can underflow to 0, and log 0 is no number.
    weight = st.floats(0.0, 1.0, allow_subnormal=False)
    raw = draw(st.lists(weight, min_size=x * k, max_size=x * k))
    gamma_XxK = np.array(raw).reshape(x, k) + 1e-3
    sigma = draw(st.lists(weight, min_size=x * p * k, max_size=x * p * k))
    return Mixture(
        gamma_XxK / gamma_XxK.sum(axis=1, keepdims=True), np.array(sigma).reshape(x, p, k)
    )


def mutual_information(mixture: Mixture) -> float:
    """I(y; z | x, a, b) from the joint distribution of label and group, cell by cell."""
    total, (x, p, k) = 0.0, mixture.sigma_XxPxK.shape
    for prompt in range(x):
        for pair in range(p):
            wins_K = mixture.gamma_XxK[prompt] * mixture.sigma_XxPxK[prompt, pair]
            joint_2xK = np.array([wins_K, mixture.gamma_XxK[prompt] - wins_K])
            label_2, group_K = joint_2xK.sum(axis=1), joint_2xK.sum(axis=0)
            for label in range(2):
                for group in range(k):
                    cell = joint_2xK[label, group]
                    if cell > 0:
                        total += cell * np.log(cell / (label_2[label] * group_K[group]))
    return total / (x * p)


@pytest.mark.parametrize(("gamma", "sigma", "entropy", "paper", "weighted", "best"), TABLE)
def test_golden_values(
    gamma: Any, sigma: Any, entropy: float, paper: float, weighted: float, best: float
) -> None:
    """With a single pair the per-pair bound equals the paper's."""
    mixture = one_pair(gamma, sigma)
    assert bounds.irreducible_entropy(mixture) == pytest.approx(entropy, abs=1e-6)
    assert bounds.paper_bound(mixture) == pytest.approx(paper, abs=1e-6)
    assert bounds.per_pair_bound(mixture) == pytest.approx(paper, abs=1e-6)
    assert bounds.weighted_bound(mixture) == pytest.approx(weighted, abs=1e-6)
    assert bounds.best_single_loss(mixture) == pytest.approx(best, abs=1e-6)


@given(mixtures(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_every_loss_is_above_every_bound_and_every_bound_above_the_entropy(
    mixture: Mixture, seed: int
) -> None:
    """A property over mixtures that include certain preferences and nearly empty groups."""
    score_XxP = np.random.default_rng(seed).normal(scale=4, size=mixture.sigma_bar_XxP.shape)
    chain = [
        bounds.single_loss(mixture, score_XxP),
        bounds.best_single_loss(mixture),
        bounds.weighted_bound(mixture),
        bounds.per_pair_bound(mixture),
        bounds.paper_bound(mixture),
        bounds.irreducible_entropy(mixture),
    ]
    assert all(upper >= lower - 1e-12 for upper, lower in pairwise(chain))


@given(mixtures())
@settings(deadline=None, max_examples=80)
def test_the_gap_is_the_mutual_information(mixture: Mixture) -> None:
    """Checked against the joint distribution of label and group."""
    expected = mutual_information(mixture)
    gap = bounds.best_single_loss(mixture) - bounds.irreducible_entropy(mixture)
    assert gap == pytest.approx(expected, abs=1e-12)
    assert bounds.exact_gap(mixture) == pytest.approx(expected, abs=1e-12)


def test_exchangeable_pairs_make_the_bound_of_the_paper_empty() -> None:
    """Every pair in both orders: the mean preference of every group is 1/2."""
    rng = np.random.default_rng(0)
    sigma_XxPxK = rng.random((2, 5, 3))
    both = np.concatenate([sigma_XxPxK, 1 - sigma_XxPxK], axis=1)
    ordered, mixture = (Mixture(rng.dirichlet(np.ones(3), 2), s) for s in (sigma_XxPxK, both))
    np.testing.assert_allclose(both.mean(axis=1), np.full((2, 3), 0.5), atol=1e-15)
    entropy = bounds.irreducible_entropy(mixture)
    assert bounds.paper_bound(mixture) == pytest.approx(entropy, abs=1e-15)
    assert bounds.paper_bound(ordered) > bounds.irreducible_entropy(ordered) + 1e-3
    assert bounds.per_pair_bound(mixture) > entropy + 1e-3


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_groups_that_agree_leave_nothing_to_pay(sigma: float) -> None:
    """The bounds, H and the loss of the true model coincide."""
    mixture = one_pair((0.2, 0.3, 0.5), (sigma,) * 3)
    entropy = bounds.irreducible_entropy(mixture)
    for value in (bounds.paper_bound, bounds.weighted_bound, bounds.best_single_loss):
        assert value(mixture) == pytest.approx(entropy, abs=1e-15)
    assert bounds.exact_gap(mixture) == pytest.approx(0, abs=1e-15)
    if 0 < sigma < 1:
        score_1x1 = np.full((1, 1), np.log(sigma / (1 - sigma)))
        assert bounds.single_loss(mixture, score_1x1) == pytest.approx(entropy, abs=1e-15)


def test_the_misreadings_exceed_a_loss_that_is_within_reach() -> None:
    result = bounds.misreadings()
    assert result["raw_scores"]["right_side"] == pytest.approx(128.003018, abs=1e-6)
    # loss + 2 rho K Var = log 2 + 2 * 0.16
    assert result["printed_entropy"]["right_side"] == pytest.approx(np.log(2) + 0.32, abs=1e-12)
    for reading in result.values():
        assert reading["attainable_loss"] == pytest.approx(np.log(2))


def test_the_variance_is_within_a_prompt_and_rho_the_smallest_of_all() -> None:
    """Two prompts of opposite leaning and unequal gamma, worked out by hand."""
    gamma = np.array([[0.5, 0.5], [0.2, 0.8]])
    sigma = np.array([[[0.9, 0.5], [0.5, 0.3]], [[0.2, 0.6], [0.4, 0.4]]])
    mixture = Mixture(gamma, sigma)
    assert mixture.rho == 0.2
    # means per prompt: (.7, .4) and (.3, .5), variances .0225 and .01
    paper = bounds.paper_bound(mixture) - bounds.irreducible_entropy(mixture)
    assert paper == pytest.approx(2 * 0.2 * 2 * 0.01625, abs=1e-12)
    # per pair: .04, .01, .04, 0
    per_pair = bounds.per_pair_bound(mixture) - bounds.irreducible_entropy(mixture)
    assert per_pair == pytest.approx(2 * 0.2 * 2 * 0.0225, abs=1e-12)


@given(mixtures(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_the_loss_of_one_model_is_the_cross_entropy_of_the_definition(
    mixture: Mixture, seed: int
) -> None:
    """sum_k gamma_k (-sigma_k log s - (1 - sigma_k) log(1 - s)), group by group."""
    score = np.random.default_rng(seed).normal(scale=3, size=mixture.sigma_bar_XxP.shape)
    s = (1 / (1 + np.exp(-score)))[:, :, None]
    loss = -mixture.sigma_XxPxK * np.log(s) - (1 - mixture.sigma_XxPxK) * np.log(1 - s)
    expected = np.mean(np.sum(mixture.gamma_XxK[:, None] * loss, axis=2))
    # 1 - s has six digits less than s where a score is near 14.
    assert bounds.single_loss(mixture, score) == pytest.approx(expected, rel=1e-9)


def test_extreme_scores_stay_finite() -> None:
    mixture = one_pair((0.5, 0.5), bounds.sigmoid([1e3, -1e3]))
    assert bounds.irreducible_entropy(mixture) == 0
    assert bounds.best_single_loss(mixture) == pytest.approx(np.log(2))
    assert bounds.single_loss(mixture, np.full((1, 1), 1e3)) == pytest.approx(500)


@pytest.mark.parametrize(
    ("gamma", "sigma", "message"),
    [
        (np.ones((2, 1)), np.ones((1, 1, 1)), r"shape \(X, K\)"),
        (np.ones((1, 0)), np.ones((1, 1, 0)), "shape"),
        (np.array([[0.5, 0.4]]), np.ones((1, 1, 2)), "gamma"),
        (np.array([[1.5, -0.5]]), np.ones((1, 1, 2)), "gamma"),
        (np.array([[np.nan, 1.0]]), np.ones((1, 1, 2)), "gamma"),
        (np.array([[0.5, 0.5]]), np.full((1, 1, 2), 8.0), "sigmoid"),
        (np.array([[0.5, 0.5]]), np.full((1, 1, 2), np.nan), "sigma"),
    ],
)
def test_what_is_no_mixture_is_refused(gamma: Any, sigma: Any, message: str) -> None:
    with pytest.raises(MixtureError, match=message) as caught:
        Mixture(gamma, sigma)
    assert isinstance(caught.value, UserError)
