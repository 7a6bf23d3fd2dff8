"""Heads and routers as pure functions of their parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def with_columns(params: dict[str, Any], spec: ModelSpec, order: list[int]) -> dict[str, Any]:
    """The same model with its router outputs in another order."""
    router = params["router"]
    if spec.router == "static":
        return {**params, "router": {"logits": router["logits"][order]}}
    output = {
        "kernel": router["output"]["kernel"][:, order],
        "bias": router["output"]["bias"][order],
    }
    return {**params, "router": {**router, "output": output}}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_starts_as_float32_in_its_documented_place(kind: RouterKind) -> None:
    params = init(spec_of(kind), jax.random.key(0))
    assert set(params) == {"heads", "router"}
    assert params["heads"]["kernel"].shape == (D, K)
    expected = {"mlp": {"hidden", "output"}, "linear": {"output"}, "static": {"logits"}}
    assert set(params["router"]) == expected[kind]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


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
def test_weights_start_nearly_uniform(kind: RouterKind) -> None:
    params = init(spec_of(kind), jax.random.key(0))
    weights_NxK = np.exp(route(spec_of(kind), params["router"], random_rows(0).router_input_NxD))
    np.testing.assert_allclose(weights_NxK, np.full((N, K), 1 / K), atol=0.02)
    if kind != "static":  # exactly uniform would be a router that cannot tell prompts apart
        assert np.ptp(weights_NxK, axis=0).min() > 0


def test_margins_are_the_product_of_differences_and_heads() -> None:
    params = random_params(spec_of("static"), 1)
    delta_NxD = random_rows(1).delta_NxD
    expected = [
        [float(np.dot(row_D, params["heads"]["kernel"][:, k])) for k in range(K)]
        for row_D in np.asarray(delta_NxD)
    ]
    np.testing.assert_allclose(margins(params["heads"], delta_NxD), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_log_weights_are_those_of_the_formula(kind: RouterKind) -> None:
    spec = spec_of(kind)
    router = random_params(spec, 2)["router"]
    input_NxD = np.asarray(random_rows(2).router_input_NxD)
    if kind == "static":
        logits_NxK = np.tile(router["logits"], (N, 1))
    else:
        hidden = input_NxD
        if kind == "mlp":
            hidden = np.maximum(hidden @ router["hidden"]["kernel"] + router["hidden"]["bias"], 0)
        logits_NxK = hidden @ router["output"]["kernel"] + router["output"]["bias"]
    expected = logits_NxK - np.log(np.exp(logits_NxK).sum(axis=1, keepdims=True))
    found_NxK = route(spec, router, jnp.asarray(input_NxD))
    np.testing.assert_allclose(found_NxK, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(found_NxK).sum(axis=1), np.ones(N), atol=1e-6)


def test_a_static_router_is_a_linear_one_without_a_kernel() -> None:
    """G-S4: in weights and in loss."""
    bias_K = jnp.array([0.5, -1.0, 2.0])
    rows = random_rows(3)
    linear = {"output": {"kernel": jnp.zeros((D, K)), "bias": bias_K}}
    np.testing.assert_allclose(
        route(spec_of("static"), {"logits": bias_K}, rows.router_input_NxD),
        route(spec_of("linear"), linear, rows.router_input_NxD),
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_zero_last_layer_gives_exactly_uniform_weights(kind: RouterKind) -> None:
    """G-S4."""
    router = random_params(spec_of(kind), 4)["router"]
    router["output"] = jax.tree.map(np.zeros_like, router["output"])
    log_weights_NxK = route(spec_of(kind), router, random_rows(4).router_input_NxD)
    np.testing.assert_array_equal(log_weights_NxK, np.full((N, K), -np.log(np.float32(K))))


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_gets_all_the_weight_whatever_the_router(kind: RouterKind) -> None:
    """G-E6: log weight exactly 0, so nothing downstream can notice the router."""
    spec = spec_of(kind, heads=1)
    log_weights_Nx1 = route(spec, random_params(spec, 5)["router"], random_rows(5).router_input_NxD)
    np.testing.assert_array_equal(log_weights_Nx1, np.zeros((N, 1)))


@given(st.sampled_from(KINDS), st.permutations(range(K)), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_heads_and_router_columns_can_be_renumbered_together(
    kind: RouterKind, order: list[int], seed: int
) -> None:
    """G-S7 through the parameters."""
    spec, rows = spec_of(kind), random_rows(seed)
    params = random_params(spec, seed)
    renumbered = with_columns(params, spec, order)
    renumbered["heads"] = {"kernel": params["heads"]["kernel"][:, order]}
    expected = evaluate_nll(spec, params, rows)
    np.testing.assert_allclose(evaluate_nll(spec, renumbered, rows), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_renumbering_only_the_router_changes_the_loss(kind: RouterKind) -> None:
    """G-S7, the other half."""
    spec, rows = spec_of(kind), random_rows(6)
    params = random_params(spec, 6)
    changed = evaluate_nll(spec, with_columns(params, spec, [1, 2, 0]), rows)
    assert abs(changed - evaluate_nll(spec, params, rows)) > 1e-3


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_every_row_is_routed_by_its_own_prompt(kind: RouterKind) -> None:
    """G-S11: permuting the prompts alone changes the loss; a broadcast first row would not."""
    spec, rows = spec_of(kind), random_rows(7)
    params = random_params(spec, 7)
    order = np.array([0, 2, 3, 4, 5, 1])  # the first row stays first
    permuted = rows._replace(router_input_NxD=rows.router_input_NxD[order])
    before, after = evaluate_nll(spec, params, rows), evaluate_nll(spec, params, permuted)
    assert abs(after - before) > 1e-3
    both = Rows(rows.delta_NxD[order], rows.router_input_NxD[order])
    np.testing.assert_allclose(evaluate_nll(spec, params, both), before, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_repeating_one_row_leaves_the_mean_loss(kind: RouterKind) -> None:
    """G-S11."""
    spec, params = spec_of(kind), random_params(spec_of(kind), 8)
    one = jax.tree.map(lambda rows: rows[:1], random_rows(8))
    repeated = jax.tree.map(lambda rows: jnp.tile(rows, (N, 1)), one)
    np.testing.assert_allclose(
        evaluate_nll(spec, params, repeated), evaluate_nll(spec, params, one), rtol=1e-6
    )


def test_padded_heads_have_neither_weight_nor_gradient() -> None:
    """G-S19 through the parameters: a router bias of minus infinity switches a head off."""
    rows, params = random_rows(9), random_params(spec_of("linear"), 9)
    output = params["router"]["output"]
    padded = {
        "heads": {"kernel": np.pad(params["heads"]["kernel"], ((0, 0), (0, 2)), mode="edge")},
        "router": {
            "output": {
                "kernel": np.pad(output["kernel"], ((0, 0), (0, 2))),
                "bias": np.pad(output["bias"], (0, 2), constant_values=-np.inf),
            }
        },
    }
    value = evaluate_nll(spec_of("linear"), params, rows)
    spec = spec_of("linear", heads=K + 2)
    padded_value, gradient = jax.value_and_grad(lambda p: evaluate_nll(spec, p, rows))(padded)
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    np.testing.assert_array_equal(gradient["heads"]["kernel"][:, K:], np.zeros((D, 2)))
    np.testing.assert_array_equal(gradient["router"]["output"]["kernel"][:, K:], np.zeros((D, 2)))
    np.testing.assert_array_equal(gradient["router"]["output"]["bias"][K:], np.zeros(2))
