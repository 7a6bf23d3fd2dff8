"""Distributional preference learning: it finds a taste, and notices one that nobody recorded."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, DplConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.dpl import apply_outputs, init_outputs
from micro_rm.heads.methods.interface import NO_LABEL, Examples, Problem, Sides, Trained
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.rows import Rows

N, D = 512, 4
NAMES = ("dpl", "dpl_categorical")


def examples(seed: int, *, hidden: bool, count: int = N) -> Examples:
    """The first coordinate decides; with a hidden context half of the judges want it low."""
    rng = np.random.default_rng(seed)
    chosen, rejected = rng.normal(size=(2, count, D)).astype(np.float32)
    wants = np.where(hidden & (rng.random(count) < 0.5), -1, 1)
    swap = ((chosen - rejected)[:, 0] * wants < 0)[:, None]
    sides = Sides(np.where(swap, rejected, chosen), np.where(swap, chosen, rejected))
    delta = jnp.asarray(sides.chosen_NxD - sides.rejected_NxD)
    nobody = np.full(count, NO_LABEL)
    return Examples(Rows(delta, delta), nobody, nobody, nobody, np.zeros(count), lambda: sides)


def problem(*, hidden: bool, options: DplConfig | None = None, **train: object) -> Problem:
    config = {"epochs": 20, "learning_rate": 0.1, "batch_size": 100} | train
    return Problem(
        width=D,
        train=examples(0, hidden=hidden),
        validation=examples(1, hidden=hidden, count=256),
        train_config=TrainConfig(**config),
        adapt_config=AdaptConfig(),
        baselines=BaselinesConfig(dpl=options or DplConfig()),
        key=jax.random.key(0),
    )


@pytest.fixture(scope="module", params=NAMES)
def fits(request: pytest.FixtureRequest) -> tuple[str, Trained, Trained]:
    """Without and with a hidden context."""
    method = load_method(request.param)
    return request.param, *(method.fit(problem(hidden=hidden), {}) for hidden in (False, True))


def test_a_taste_of_all_judges_is_learnt(fits: tuple[str, Trained, Trained]) -> None:
    name, clear, _ = fits
    prediction = load_method(name).predict(clear, examples(2, hidden=False))
    assert prediction.heads is None
    assert prediction.statistic_SxN.shape == prediction.log_prob_SxN.shape == (1, N)
    assert (prediction.statistic_SxN > 0).mean() > 0.93
    assert prediction.log_prob_SxN.mean() > -0.3
    assert (prediction.log_prob_SxN <= 0).all()


def test_a_hidden_context_leaves_the_reward_unexplained(
    fits: tuple[str, Trained, Trained],
) -> None:
    _, clear, hidden = fits
    assert clear.settings["r2"] > 0.5
    assert hidden.settings["r2"] < 0.2


def test_the_decision_agrees_with_the_method_s_own_probability(
    fits: tuple[str, Trained, Trained],
) -> None:
    name, _, hidden = fits
    prediction = load_method(name).predict(hidden, examples(3, hidden=True))
    np.testing.assert_array_equal(
        prediction.statistic_SxN > 0, prediction.log_prob_SxN > np.log(0.5)
    )


def test_swapped_sides_have_the_opposite_statistic_and_the_other_probability(
    fits: tuple[str, Trained, Trained],
) -> None:
    name, clear, _ = fits
    rows = examples(4, hidden=False)
    swapped = replace(rows, load_sides=lambda: Sides(*rows.load_sides()[::-1]))
    one, two = (load_method(name).predict(clear, part) for part in (rows, swapped))
    np.testing.assert_allclose(one.statistic_SxN, -two.statistic_SxN, atol=1e-5)
    total = np.exp(one.log_prob_SxN) + np.exp(two.log_prob_SxN)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


def test_untrained_outputs_are_small_and_biased_in_all_but_the_first() -> None:
    params = init_outputs(100, 3, 0.01, jax.random.key(0))
    assert 0.0005 < np.abs(params["kernel"]).max() <= 0.001
    assert params["bias"].shape == (2,)
    zeros = np.zeros((1, 100), np.float32)
    params["bias"] = jnp.array([5.0, 6.0])
    np.testing.assert_array_equal(
        apply_outputs(params, Sides(zeros, zeros))[0], np.array([[0.0, 5.0, 6.0]])
    )


def spread(trained: Trained) -> float:
    outputs_NxO = np.concatenate(
        apply_outputs(trained.params, examples(5, hidden=True).load_sides())
    )
    return float(np.logaddexp(0, outputs_NxO[:, 1]).mean())


def levels_entropy(trained: Trained) -> float:
    sides = examples(6, hidden=False).load_sides()
    outputs_NxO = np.concatenate(apply_outputs(trained.params, sides))
    mean_O = np.asarray(jax.nn.softmax(outputs_NxO, axis=-1)).mean(axis=0)
    return float(-(mean_O * np.log(mean_O)).sum())


@pytest.mark.long
def test_each_penalty_moves_what_it_is_about(fits: tuple[str, Trained, Trained]) -> None:
    """Narrower rewards; and all levels in use over responses, not within each of them."""
    name, clear, hidden = fits
    if name == "dpl":
        options = DplConfig(variance_penalty=1.0)
        penalised = load_method(name).fit(problem(hidden=True, options=options), {})
        assert spread(penalised) < 0.5 * spread(hidden)
    else:
        options = DplConfig(entropy_bonus=0.0)
        free = load_method(name).fit(problem(hidden=False, options=options), {})
        assert levels_entropy(clear) > levels_entropy(free) + 0.15
        assert levels_entropy(clear) > 0.95 * np.log(10)


@pytest.mark.long
@pytest.mark.parametrize("select", ["best", "last"])
def test_the_epoch_that_is_asked_for_is_kept(select: str) -> None:
    """A learning rate that ends far off: the last epoch is not the best one."""
    setting = problem(hidden=True, select=select, learning_rate=1.0)
    trained = load_method("dpl").fit(setting, {})
    curve = trained.curves["validation_nll"]
    reached = -load_method("dpl").predict(trained, setting.validation).log_prob_SxN.mean()
    kept = curve.min() if select == "best" else curve[-1]
    assert reached == pytest.approx(kept, rel=1e-4)
    assert curve[-1] > curve.min() + 1e-3


def test_training_that_diverges_is_an_error_with_a_remedy() -> None:
    broken = problem(hidden=False)
    sides = Sides(*(np.full((N, D), np.nan, np.float32),) * 2)
    train = replace(broken.train, load_sides=lambda: sides)
    with pytest.raises(DivergenceError, match=r"dpl diverged .* lower train\.learning_rate"):
        load_method("dpl").fit(replace(broken, train=train), {})
