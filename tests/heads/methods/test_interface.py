"""Predictions of a fitted method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.methods.interface import Trained, one_draw
from micro_rm.heads.model import ModelSpec, RouterKind, init, log_weights, margins
from micro_rm.heads.training import Rows

N, D, K, S = 5, 4, 3, 2


def rows(seed: int) -> Rows:
    delta, prompt = np.random.default_rng(seed).normal(size=(2, N, D)).astype(np.float32)
    return Rows(jnp.asarray(delta), jnp.asarray(prompt))


@pytest.mark.parametrize("kind", ["linear", "static"])
def test_predictions_route_every_draw_by_its_own_router(kind: RouterKind) -> None:
    spec = ModelSpec(D, K, kind, router_units=3)
    models = [init(spec, jax.random.key(seed)) for seed in range(S)]
    routers = jax.tree.map(lambda *leaves: 10 * jnp.stack(leaves), *[m["router"] for m in models])
    trained = Trained(spec, {"heads": models[0]["heads"], "router": routers})
    prediction = trained.predict(rows(0))
    assert prediction.delta_NxK.shape == (N, K)
    assert prediction.log_weights_SxNxK.shape == (S, N, K)
    np.testing.assert_allclose(
        prediction.delta_NxK, margins(models[0]["heads"], rows(0).delta_NxD), rtol=1e-6
    )
    for draw in range(S):
        router = jax.tree.map(lambda leaf, draw=draw: leaf[draw], routers)
        expected = log_weights(spec, router, rows(0).router_input_NxD)
        np.testing.assert_allclose(prediction.log_weights_SxNxK[draw], expected, atol=1e-5)


def test_a_model_without_draws_is_stacked_as_one() -> None:
    params = init(ModelSpec(D, K, "linear"), jax.random.key(0))
    stacked = one_draw(params)
    np.testing.assert_array_equal(stacked["heads"]["kernel"], params["heads"]["kernel"])
    output = stacked["router"]["output"]
    assert output["kernel"].shape == (1, D, K)
    np.testing.assert_array_equal(output["kernel"][0], params["router"]["output"]["kernel"])
