"""Features of one's own: fit, adapt, probabilities and scikit-learn's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from micro_rm.common.errors import UserError
from micro_rm.heads.estimator import MixtureRewards
from micro_rm.heads.scoring import ScoringError

WIDTH = 12
QUICK: dict[str, Any] = {"num_heads": 2, "epochs": 20, "batch_size": 32, "learning_rate": 0.02}


def opposed(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tastes with opposite directions; the prompt's first number says whose pair it is."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((rows, 3, WIDTH)).astype(np.float32)
    taste = random.integers(0, 2, rows)
    X[:, 2, 0] = 3.0 * (2 * taste - 1)
    margin = (X[:, 0, 1] - X[:, 1, 1]) * (2 * taste - 1)
    return X, (margin > 0).astype(int), taste


@pytest.fixture(scope="module")
def fitted() -> MixtureRewards:
    X, y, _ = opposed(600, 0)
    return MixtureRewards(**QUICK).fit(X, y)


def test_a_mixture_learns_what_one_reward_cannot(fitted: MixtureRewards) -> None:
    X, y, _ = opposed(400, 1)
    assert fitted.score(X, y) > 0.85
    assert MixtureRewards(**QUICK | {"num_heads": 1}).fit(*opposed(600, 0)[:2]).score(X, y) < 0.65


def test_probabilities_and_rewards_agree(fitted: MixtureRewards) -> None:
    X, _, _ = opposed(50, 2)
    both = fitted.predict_proba(X)
    np.testing.assert_allclose(both.sum(axis=1), 1, atol=1e-6)
    assert (fitted.predict(X) == (both[:, 1] > 0.5)).all()
    swapped = fitted.predict_proba(X[:, [1, 0, 2]])
    np.testing.assert_allclose(swapped[:, 0], both[:, 1], atol=1e-5)
    first, second = (fitted.rewards(X[:, place], X[:, 2]) for place in (0, 1))
    np.testing.assert_array_equal(first.weights_NxK, second.weights_NxK)
    delta_NxK = first.rewards_NxK - second.rewards_NxK
    expected = (first.weights_NxK / (1 + np.exp(-delta_NxK))).sum(axis=1)
    np.testing.assert_allclose(both[:, 1], expected, atol=1e-5)


def test_labels_only_say_which_response_comes_first(fitted: MixtureRewards) -> None:
    X, y, _ = opposed(600, 0)
    ordered = np.where((y == 1)[:, None, None], X, X[:, [1, 0, 2]])
    again = MixtureRewards(**QUICK).fit(ordered)
    np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-6)


def test_heads_are_rewards_of_raw_features(fitted: MixtureRewards) -> None:
    X, _, _ = opposed(20, 4)
    assert fitted.heads_.shape == (WIDTH, 2)
    rewards = fitted.rewards(X[:, 0], X[:, 2]).rewards_NxK
    np.testing.assert_allclose(rewards, X[:, 0] @ fitted.heads_, atol=1e-4)


def test_a_saved_estimator_predicts_and_adapts_as_before(
    fitted: MixtureRewards, tmp_path: Path
) -> None:
    X, y, taste = opposed(60, 3)
    fitted.save(tmp_path / "model")
    loaded = MixtureRewards.load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params() and loaded.n_features_in_ == WIDTH
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    adapted = MixtureRewards(**QUICK).fit(*opposed(600, 0)[:2]).adapt(X, y, taste, epochs=5)
    loaded.adapt(X, y, taste, epochs=5)
    np.testing.assert_array_equal(loaded.predict_proba(X), adapted.predict_proba(X))


def test_what_was_not_saved_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="not fitted"):
        MixtureRewards().save(tmp_path / "model")
    with pytest.raises(UserError, match="no trained model here"):
        MixtureRewards.load(tmp_path)


@pytest.mark.long
def test_stage_two_routes_by_a_wish_that_stage_one_never_saw() -> None:
    """Topics tell tastes apart in stage 1; then a wish takes the place of the topic."""

    def wishing(X: np.ndarray) -> np.ndarray:
        X = X.copy()
        X[:, 2, 3], X[:, 2, 0] = X[:, 2, 0], 0
        return X

    X, y, taste = opposed(800, 3)
    model = MixtureRewards(**QUICK, seed=1).fit(X, y)
    test, wanted, _ = opposed(400, 4)
    before = model.score(wishing(test), wanted)
    few = slice(0, 60)
    wishes = {"tau": 0.05, "epochs": 60, "learning_rate": 0.02}
    model.adapt(wishing(X)[few], y[few], groups=taste[few], **wishes)
    assert model.score(wishing(test), wanted) > max(0.75, before + 0.15)


@pytest.mark.long
def test_scikit_learn_can_copy_and_validate_it() -> None:
    X, y, _ = opposed(240, 5)
    model = MixtureRewards(**QUICK | {"epochs": 8})
    copied = clone(model)
    assert copied.get_params() == model.get_params() and copied is not model
    assert len(cross_val_score(model, X, y, cv=2)) == 2
    assert model.set_params(num_heads=3).get_params()["num_heads"] == 3


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((4, 2, 3)), None, r"expected \(N, 3, D\)"),
        (np.zeros((0, 3, 3)), None, r"expected \(N, 3, D\)"),
        (np.full((4, 3, 3), np.nan), None, "expected finite numbers"),
        (np.zeros((4, 3, 3)), np.zeros(3), "expected 4 labels 0 or 1"),
        (np.zeros((4, 3, 3)), np.full(4, 2), "expected 4 labels 0 or 1"),
    ],
)
def test_what_cannot_be_fitted_is_named(X: Any, y: Any, words: str) -> None:
    with pytest.raises(ScoringError, match=words):
        MixtureRewards().fit(X, y)


def test_unknown_parameters_and_use_before_fitting_are_errors() -> None:
    with pytest.raises(ScoringError, match="found \\['heads'\\]"):
        MixtureRewards(heads=3)
    with pytest.raises(ScoringError, match="call fit first"):
        MixtureRewards().predict(np.zeros((1, 3, 2)))
