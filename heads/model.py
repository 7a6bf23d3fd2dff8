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

from .matmul import Precision, product

RouterKind = Literal["mlp", "linear", "static"]
HEADS_STREAM, ROUTER_STREAM = 0, 1
# Variance of the router's last layer times its fan-in: untrained weights are nearly uniform.
ROUTER_OUTPUT_VARIANCE = 1e-4


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a model: feature width D, heads K, the kind of router and its hidden units.

    ``static`` is a router that ignores its input: one trainable logit per head. ``precision`` is
    that of the products of features with parameters.
    """

    width: int
    num_heads: int
    router: RouterKind
    router_units: int = 128
    precision: Precision = "float32"


class RewardHeads(nnx.Module):
    """K linear maps without a bias, which would cancel in every difference.

    Head k is drawn from its own key, so the first k heads of a larger K are those of a smaller one.
    """

    def __init__(self, width: int, num_heads: int, key: Array) -> None:
        bound = width**-0.5
        keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(num_heads))
        draw = jax.vmap(lambda k: jax.random.uniform(k, (width,), minval=-bound, maxval=bound))
        self.kernel = nnx.Param(draw(keys).T)


class Dense(nnx.Linear):
    """A linear layer that reads features in the precision of the model."""

    def __init__(self, width: int, units: int, precision: Precision, rngs: nnx.Rngs) -> None:
        super().__init__(width, units, rngs=rngs)
        self.feature_precision: Precision = precision

    def __call__(self, inputs_NxD: Array) -> Array:
        assert self.bias is not None
        out_NxK = product(inputs_NxD, self.kernel[...], self.feature_precision)
        return out_NxK + self.bias[...][None]


class Router(nnx.Module):
    """Prompt features to logits (N, K), nearly uniform before training.

    Output k is drawn from its own key, as head k is.
    """

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs) -> None:
        width, precision = spec.width, spec.precision
        if spec.router == "mlp":
            self.hidden = Dense(width, spec.router_units, precision, rngs)
            width, precision = spec.router_units, "float32"
        self.output = Dense(width, spec.num_heads, precision, rngs)
        key, deviation = rngs.params(), (ROUTER_OUTPUT_VARIANCE / width) ** 0.5
        keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(spec.num_heads))
        draw_KxD = jax.vmap(lambda k: jax.random.normal(k, (width,)))(keys)
        self.output.kernel[...] = deviation * draw_KxD.T
        self.kind = spec.router

    def __call__(self, router_input_NxD: Array) -> Array:
        hidden = router_input_NxD
        if self.kind == "mlp":
            hidden = jax.nn.relu(self.hidden(hidden))
        return self.output(hidden)


class StaticRouter(nnx.Module):
    """The same logits for every prompt; uniform at init."""

    def __init__(self, num_heads: int) -> None:
        self.logits = nnx.Param(jnp.zeros(num_heads))

    def __call__(self, router_input_NxD: Array) -> Array:
        logits_K = self.logits[...]
        return jnp.broadcast_to(logits_K, (router_input_NxD.shape[0], logits_K.size))


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


def log_weights(
    spec: ModelSpec, router: Any, router_input_NxD: Array, num_heads: Array | int | None = None
) -> Array:
    """Log weights of a router with the given parameters: (N, K).

    Of the first ``num_heads`` heads only, if that is given: the others get ``-inf``.
    """
    shapes = nnx.eval_shape(lambda: _router(spec, jax.random.key(0)))
    definition, state = nnx.split(shapes)
    nnx.replace_by_pure_dict(state, router)
    logits_NxK = nnx.merge(definition, state)(router_input_NxD)
    if num_heads is not None:
        used_1xK = (jnp.arange(spec.num_heads) < num_heads)[None]
        logits_NxK = jnp.where(used_1xK, logits_NxK, -jnp.inf)
    return jax.nn.log_softmax(logits_NxK, axis=-1)
