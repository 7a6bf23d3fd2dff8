"""Heads and routers as pure functions of their parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.model import ModelSpec, RouterKind, init, log_weights, margins
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import mean_nll

N, D, K = 6, 8, 3
KINDS: tuple[RouterKind, ...] = ("mlp", "linear", "static")
route = jax.jit(log_weights, static_argnames="spec")
evaluate_nll = jax.jit(mean_nll, static_argnames="spec")


def spec_of(kind: RouterKind, heads: int = K) -> ModelSpec:
    return ModelSpec(D, heads, kind, router_units=5)


def random_params(spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Parameters far from their initial values, so that no term is negligible."""
    rng = np.random.default_rng(seed)
    fresh = init(spec, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), fresh)


def random_rows(seed: int) -> Rows:
    delta, prompt = np.random.default_rng(seed).normal(size=(2, N, D)).astype(np.float32)
    return Rows(jnp.asarray(delta), jnp.asarray(prompt))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("mlp", {"hidden", "output"}), ("linear", {"output"}), ("static", {"logits"})],
)
def test_parameters_are_float32_in_their_documented_place_and_weights_nearly_uniform(
    kind: RouterKind, parts: set[str]
) -> None:
    spec = spec_of(kind)
    params = init(spec, jax.random.key(0))
    assert params["heads"]["kernel"].shape == (D, K)
    assert params["router"].keys() == parts
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    weights_NxK = np.exp(route(spec, params["router"], random_rows(0).router_input_NxD))
    np.testing.assert_allclose(weights_NxK, np.full((N, K), 1 / K), atol=0.02)
    # Exactly uniform would be a router that cannot tell prompts apart.
    assert (np.ptp(weights_NxK, axis=0) > 0).all() == (kind != "static")


def test_heads_start_within_the_paper_s_bounds_and_differ() -> None:
    """Section 2.4: uniform in +-1/sqrt(d); distinct, or training could not separate them."""
    kernel_DxK = np.asarray(init(ModelSpec(400, 4, "static"), jax.random.key(0))["heads"]["kernel"])
    bound = 1 / 20
    assert np.abs(kernel_DxK).max() <= bound
    assert np.abs(kernel_DxK).max() > 0.98 * bound
    assert np.abs(kernel_DxK.mean()) < bound / 10
    assert np.abs(np.corrcoef(kernel_DxK.T) - np.eye(4)).max() < 0.2


def test_more_heads_start_as_the_same_heads_and_others() -> None:
    few = init(ModelSpec(D, 2, "static"), jax.random.key(3))["heads"]["kernel"]
    many = init(ModelSpec(D, 5, "static"), jax.random.key(3))["heads"]["kernel"]
    np.testing.assert_array_equal(many[:, :2], few)


def test_the_seed_decides_every_random_number() -> None:
    one, same, other = (init(spec_of("mlp"), jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (np.asarray(one["heads"]["kernel"]) != np.asarray(other["heads"]["kernel"])).all()
    first, second = (model["router"]["hidden"]["kernel"] for model in (one, other))
    assert (np.asarray(first) != np.asarray(second)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_loss_are_those_of_the_formula(kind: RouterKind) -> None:
    spec, rows = spec_of(kind), random_rows(2)
    params = random_params(spec, 2)
    router, hidden = params["router"], np.asarray(rows.router_input_NxD)
    if kind == "static":
        logits_NxK = np.tile(router["logits"], (N, 1))
    else:
        if kind == "mlp":
            hidden = np.maximum(hidden @ router["hidden"]["kernel"] + router["hidden"]["bias"], 0)
        logits_NxK = hidden @ router["output"]["kernel"] + router["output"]["bias"]
    expected = logits_NxK - np.log(np.exp(logits_NxK).sum(axis=1, keepdims=True))
    found_NxK = route(spec, router, rows.router_input_NxD)
    np.testing.assert_allclose(found_NxK, expected, rtol=1e-5, atol=1e-5)
    delta_NxK = np.asarray(rows.delta_NxD) @ params["heads"]["kernel"]
    found_NxK = margins(params["heads"], rows.delta_NxD)
    np.testing.assert_allclose(found_NxK, delta_NxK, rtol=1e-5, atol=1e-6)
    wins_N = (np.exp(expected) / (1 + np.exp(-delta_NxK))).sum(axis=1)
    nll = evaluate_nll(spec, params, rows)
    assert float(nll) == pytest.approx(-np.log(wins_N).mean(), rel=1e-5)


def test_one_head_gets_all_the_weight_whatever_the_router() -> None:
    """Log weight exactly 0, so nothing downstream can notice the router."""
    spec = spec_of("mlp", heads=1)
    log_weights_Nx1 = route(spec, random_params(spec, 5)["router"], random_rows(5).router_input_NxD)
    np.testing.assert_array_equal(log_weights_Nx1, np.zeros((N, 1)))
