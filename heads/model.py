"""K linear reward heads and a router: a Flax NNX definition, used as pure functions of a pytree.

Parameters travel as ``{"heads": ..., "router": ...}`` dictionaries of float32 arrays, so a step is
a pure function, and a sweep, a draw or a saved file is an array with one more axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

RouterKind = Literal["mlp", "linear", "static"]
HEADS_STREAM, ROUTER_STREAM = 0, 1
# Variance of the router's last layer times its fan-in: untrained weights are nearly uniform.
ROUTER_OUTPUT_VARIANCE = 1e-4


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a model: feature width D, heads K, the kind of router and its hidden units.

    ``static`` is a router that ignores its input: one trainable logit per head.
    """

    width: int
    num_heads: int
    router: RouterKind
    router_units: int = 128


class RewardHeads(nnx.Module):
    """K linear maps without a bias, which would cancel in every difference.

    Head k is drawn from its own key, so the first k heads of a larger K are those of a smaller one.
    """

    def __init__(self, width: int, num_heads: int, key: Array) -> None:
        bound = width**-0.5
        keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(num_heads))
        draw = jax.vmap(lambda k: jax.random.uniform(k, (width,), minval=-bound, maxval=bound))
        self.kernel = nnx.Param(draw(keys).T)


class Router(nnx.Module):
    """Prompt features to log weights (N, K), nearly uniform before training."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs) -> None:
        width = spec.width
        if spec.router == "mlp":
            self.hidden = nnx.Linear(width, spec.router_units, rngs=rngs)
            width = spec.router_units
        small = nnx.initializers.variance_scaling(ROUTER_OUTPUT_VARIANCE, "fan_in", "normal")
        self.output = nnx.Linear(width, spec.num_heads, kernel_init=small, rngs=rngs)
        self.kind = spec.router

    def __call__(self, router_input_NxD: Array) -> Array:
        hidden = router_input_NxD
        if self.kind == "mlp":
            hidden = jax.nn.relu(self.hidden(hidden))
        return jax.nn.log_softmax(self.output(hidden), axis=-1)


class StaticRouter(nnx.Module):
    """The same log weights for every prompt; uniform at init."""

    def __init__(self, num_heads: int) -> None:
        self.logits = nnx.Param(jnp.zeros(num_heads))

    def __call__(self, router_input_NxD: Array) -> Array:
        log_weights_K = jax.nn.log_softmax(self.logits[...])
        return jnp.broadcast_to(log_weights_K, (router_input_NxD.shape[0], log_weights_K.size))


def _router(spec: ModelSpec, key: Array) -> nnx.Module:
    if spec.router == "static":
        return StaticRouter(spec.num_heads)
    return Router(spec, nnx.Rngs(params=key))


def init(spec: ModelSpec, key: Array) -> dict[str, Any]:
    """Fresh parameters as ``{"heads": {...}, "router": {...}}``, float32."""
    heads = RewardHeads(spec.width, spec.num_heads, jax.random.fold_in(key, HEADS_STREAM))
    router = _router(spec, jax.random.fold_in(key, ROUTER_STREAM))
    return {
        "heads": nnx.to_pure_dict(nnx.state(heads, nnx.Param)),
        "router": nnx.to_pure_dict(nnx.state(router, nnx.Param)),
    }


def margins(heads: Any, delta_NxD: Array) -> Array:
    """Margins ``r_k(chosen) - r_k(rejected)`` of every head: (N, K)."""
    return delta_NxD @ heads["kernel"]


def log_weights(spec: ModelSpec, router: Any, router_input_NxD: Array) -> Array:
    """Log weights of a router with the given parameters: (N, K)."""
    shapes = nnx.eval_shape(lambda: _router(spec, jax.random.key(0)))
    definition, state = nnx.split(shapes)
    nnx.replace_by_pure_dict(state, router)
    return nnx.merge(definition, state)(router_input_NxD)
