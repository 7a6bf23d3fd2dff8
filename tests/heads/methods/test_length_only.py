"""The reward of length alone: its slope, its sign, and rows that no finite slope explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads.evaluation.metrics import correctness
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.length_only import fit_slope

LENGTH_ONLY = load_method("length_only")


def loss(slope: float, x_N: np.ndarray) -> float:
    return float(np.logaddexp(0, -slope * x_N).mean())


def minimise(x_N: np.ndarray, low: float = -100.0, high: float = 100.0) -> float:
    """The minimiser of the loss by bisection of its slope, which rises with w."""
    for _ in range(200):
        middle = (low + high) / 2
        rising = -np.mean(x_N * np.exp(-np.logaddexp(0, middle * x_N))) > 0
        low, high = (low, middle) if rising else (middle, high)
    return (low + high) / 2


@given(
    hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(-3, 3, allow_subnormal=False)),
    st.floats(0.5, 3),
    st.floats(0.5, 3),
)
@settings(deadline=None, max_examples=100)
def test_the_slope_is_the_minimiser_of_the_loss(
    others_N: np.ndarray, plus: float, minus: float
) -> None:
    """One row of either sign makes the minimiser finite."""
    x_N = np.concatenate([[plus, -minus], others_N])
    assert fit_slope(x_N) == pytest.approx(minimise(x_N), abs=1e-6)


def test_lengths_with_a_long_tail_are_solved_too() -> None:
    """A hundred-fold longer answer saturates its own row and must not throw the others off."""
    rng = np.random.default_rng(0)
    x_N = rng.standard_t(1.5, 2000) + 0.3
    x_N /= np.sqrt(np.mean(x_N**2))
    assert np.abs(x_N).max() > 15
    assert fit_slope(x_N) == pytest.approx(minimise(x_N), abs=1e-6)


def test_the_sign_says_which_length_is_preferred() -> None:
    x_N = np.array([1.0, 2.0, 1.0, -1.0])
    assert fit_slope(x_N) > 0
    assert fit_slope(-x_N) == pytest.approx(-fit_slope(x_N), abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_that_one_sign_explains_end_at_a_finite_slope_of_next_to_no_loss(sign: int) -> None:
    slope = fit_slope(sign * np.array([1.0, 0.5, 2.0]))
    assert np.isfinite(slope)
    assert np.sign(slope) == sign
    assert loss(slope, sign * np.array([1.0, 0.5, 2.0])) < 1e-5


@pytest.mark.parametrize("x_N", [np.zeros(3), np.array([1.0, -1.0])])
def test_lengths_that_say_nothing_give_a_slope_of_zero(x_N: np.ndarray) -> None:
    assert fit_slope(x_N) == pytest.approx(0, abs=1e-12)


def test_the_method_scores_pairs_by_their_length_and_nothing_else(
    make_examples: Any, make_problem: Any
) -> None:
    """In tokens, not in units of the scaling that helps the solver."""
    rng = np.random.default_rng(1)
    longer_N = rng.integers(-300, 400, 500).astype(np.float32)
    train = make_examples(rng.normal(size=(500, 4)), longer=longer_N)
    trained = LENGTH_ONLY.fit(make_problem(train), {})
    expected = minimise(longer_N.astype(np.float64), -1, 1)
    assert trained.params["slope"] == pytest.approx([expected], rel=1e-6)
    tested = make_examples(rng.normal(size=(3, 4)), longer=np.array([200.0, 0.0, -7.0]))
    prediction = LENGTH_ONLY.predict(trained, tested)
    np.testing.assert_allclose(prediction.statistic_SxN, [[200 * expected, 0, -7 * expected]])
    assert correctness(prediction.statistic_SxN).tolist() == [[1.0, 0.5, 0.0]]
    np.testing.assert_allclose(
        np.exp(prediction.log_prob_SxN), 1 / (1 + np.exp(-prediction.statistic_SxN))
    )
    assert prediction.heads is None


def test_a_data_set_of_equal_lengths_ties_everywhere(make_examples: Any, make_problem: Any) -> None:
    trained = LENGTH_ONLY.fit(make_problem(make_examples(np.zeros((4, 2)))), {})
    prediction = LENGTH_ONLY.predict(trained, make_examples(np.zeros((2, 2)), longer=[5.0, 0.0]))
    np.testing.assert_array_equal(correctness(prediction.statistic_SxN), [[0.5, 0.5]])
