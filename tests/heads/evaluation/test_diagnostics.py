"""What is wrong with a mixture although it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads.evaluation.diagnostics import diagnose, flags, routing_information
from micro_rm.heads.methods.interface import HeadOutputs

S, N, K = 2, 6, 3
MARGINS = hnp.arrays(np.float32, (N, K), elements=st.floats(-9, 9, width=32))
LOGITS = hnp.arrays(np.float32, (S, N, K), elements=st.floats(-30, 30, width=32))


def log_weights(weights: Any) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(weights, float))


MORE = "an earlier one (correlation 0.99 or more)."
NOTHING = "next to no weight on any test row."
DEAF = "the router ignores its input; every test row gets nearly the same weights (0.0012 nats of"


def correlation(delta_NxK: np.ndarray) -> np.ndarray:
    uniform = np.full((1, *delta_NxK.shape), -np.log(delta_NxK.shape[1]))
    return np.array(diagnose(HeadOutputs(delta_NxK, uniform))["correlation"])


# --- correlation ----------------------------------------------------------------------------------


def test_correlation_is_that_of_margins_as_they_are_not_centred() -> None:
    """Two heads that both favour chosen agree, though their deviations from the mean do not."""
    delta_NxK = np.array([[3.0, 5, -3], [5, 3, -5]])
    expected = [[1, 30 / 34, -1], [30 / 34, 1, -30 / 34], [-1, -30 / 34, 1]]
    np.testing.assert_allclose(correlation(delta_NxK), expected, atol=1e-4)


@given(MARGINS)
@settings(deadline=None, max_examples=60)
def test_a_head_is_like_itself_unless_it_has_no_margin(delta_NxK: np.ndarray) -> None:
    """Rounding for the report may neither hide a copy nor wake a dead head."""
    result_KxK = correlation(delta_NxK)
    assert (np.abs(result_KxK) <= 1).all()
    np.testing.assert_array_equal(result_KxK, result_KxK.T)
    np.testing.assert_array_equal(np.diag(result_KxK), np.abs(delta_NxK).max(axis=0) > 0)
    doubled_KxK = correlation(np.concatenate([delta_NxK, 2 * delta_NxK], axis=1))
    np.testing.assert_array_equal(np.diag(doubled_KxK[K:, :K]), np.diag(result_KxK))


# --- routing information --------------------------------------------------------------------------


@given(LOGITS)
@settings(deadline=None, max_examples=60)
def test_information_lies_between_nothing_and_the_number_of_heads(
    logits_SxNxK: np.ndarray,
) -> None:
    """0 to log K nats, and it is the mean divergence of a row's weights from the mean weights."""
    log_weights_SxNxK = logits_SxNxK - np.logaddexp.reduce(logits_SxNxK, axis=-1, keepdims=True)
    result = routing_information(log_weights_SxNxK)
    assert -1e-12 <= result <= np.log(K) + 1e-6
    w_SxNxK = np.exp(log_weights_SxNxK.astype(np.float64))
    ratio_SxNxK = log_weights_SxNxK - np.log(w_SxNxK.mean(axis=1, keepdims=True))
    assert result == pytest.approx((w_SxNxK * ratio_SxNxK).sum(axis=-1).mean(), abs=1e-5)


def test_equal_weights_for_every_row_tell_nothing_and_one_head_per_row_everything() -> None:
    deaf = np.tile([0.7, 0.2, 0.1], (1, 6, 1))
    assert routing_information(log_weights(deaf)) == pytest.approx(0, abs=1e-12)
    sharp = np.eye(3)[np.arange(6) % 3][None]
    assert routing_information(log_weights(sharp)) == pytest.approx(np.log(3))
    collapsed = np.eye(3)[np.zeros(6, int)][None]  # sharp, but always the same head
    assert routing_information(log_weights(collapsed)) == pytest.approx(0, abs=1e-12)
    draws = np.tile([[[0.9, 0.1]], [[0.1, 0.9]]], (1, 5, 1))  # deaf, each for itself
    assert routing_information(log_weights(draws)) == pytest.approx(0, abs=1e-12)


# --- flags ----------------------------------------------------------------------------------------


def entry(
    correlation: Any = None, usage: tuple[float, ...] = (0.5, 0.3, 0.2), routing_nats: float = 0.5
) -> dict[str, Any]:
    correlation = np.eye(len(usage)) if correlation is None else np.asarray(correlation)
    return {
        "correlation": correlation.tolist(),
        "usage": list(usage),
        "routing_nats": routing_nats,
    }


def flagged(item: dict[str, Any], *, owner: bool = True, router: bool = True) -> list[str]:
    return flags({"m": item}, owners=["m"] if owner else [], routers=["m"] if router else [])


def alike(*pairs: tuple[int, int], value: float = 1.0) -> np.ndarray:
    correlation = np.eye(3)
    for one, other in pairs:
        correlation[one, other] = correlation[other, one] = value
    return correlation


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (entry(alike((2, 0))), f"1 of 3 heads collapsed: head 2 repeats {MORE}"),
        (entry(alike((1, 0), (2, 1))), f"2 of 3 heads collapsed: heads 1, 2 repeat {MORE}"),
        (entry(np.diag([1.0, 0, 1])), "head 1 has no opinion on any test row."),
        (entry(np.diag([0.0, 1, 0])), "heads 0, 2 have no opinion on any test row."),
        (entry(usage=(0.66, 0.01, 0.33)), f"head 1 has {NOTHING}"),
        (entry(usage=(1.0, 0.0, 0.0)), f"heads 1, 2 have {NOTHING}"),
        (entry(routing_nats=0.0012), f"{DEAF} 1.10)."),
        (entry(alike((1, 0), value=0.99)), f"1 of 3 heads collapsed: head 1 repeats {MORE}"),
        (entry(usage=(0.6, 0.0333, 0.3667)), f"head 1 has {NOTHING}"),
    ],
)
def test_each_defect_has_its_sentence(item: dict[str, Any], sentence: str) -> None:
    assert flagged(item) == [f"m: {sentence}"]


@pytest.mark.parametrize(
    "item",
    [
        entry(),
        entry(alike((1, 0), value=0.989)),
        entry(alike((1, 0), value=-1.0)),  # opposite tastes are no copies
        entry(usage=(0.6, 0.0334, 0.3666)),
        entry(routing_nats=0.01),
        entry(usage=(1.0,), routing_nats=0.0),  # one head can neither collapse nor be routed
    ],
)
def test_what_stays_within_the_thresholds_has_no_flag(item: dict[str, Any]) -> None:
    assert flagged(item) == []


def test_heads_are_flagged_at_their_owner_and_weights_at_their_router() -> None:
    """MiCRo after stage 2 has the heads of stage 1; a static mixture is meant to be deaf."""
    sick = entry(alike((1, 0)), usage=(1.0, 0.0, 0.0), routing_nats=0.0)
    heads = flagged(sick, router=False)
    weights = flagged(sick, owner=False)
    assert len(heads) == 1 and "collapsed" in heads[0]
    assert len(weights) == 2
    assert flagged(sick) == heads + weights
    assert flagged(sick, owner=False, router=False) == []


def test_the_numbers_of_real_heads_raise_the_flags_that_they_should() -> None:
    """From margins and weights to sentences: a copy, a dead head, a router that is deaf."""
    half_N = np.random.default_rng(0).normal(size=30)
    delta_NxK = np.stack([half_N, 2 * half_N, np.zeros(30)], axis=1)
    heads = HeadOutputs(delta_NxK, log_weights(np.tile([0.9, 0.09, 0.01], (2, 30, 1))))
    item = {**diagnose(heads), "usage": [0.9, 0.09, 0.01]}
    assert [sentence.split(":")[1][:20] for sentence in flagged(item)] == [
        " head 2 has no opini",
        " 1 of 3 heads collap",
        " head 2 has next to ",
        " the router ignores ",
    ]
