"""Perceptrons as plain parameters: affine maps with an activation between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def init_perceptron(key: Array, *widths: int) -> dict[str, dict[str, Array]]:
    """Affine maps between the given widths, uniform within one over the root of the fan-in."""
    layers = {}
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        key_n, shape = jax.random.fold_in(key, number), (fan_in + 1, fan_out)
        drawn = jax.random.uniform(key_n, shape, minval=-1.0, maxval=1.0) / math.sqrt(fan_in)
        layers[f"layer{number}"] = {"kernel": drawn[:-1], "bias": drawn[-1]}
    return layers


def perceptron(layers: Any, inputs: Any, activation: Callable[[Array], Array]) -> Array:
    """Affine maps over the last axis with an activation between them, none after the last."""
    for number in range(len(layers)):
        layer, inputs = layers[f"layer{number}"], activation(inputs) if number else inputs
        inputs = inputs @ layer["kernel"] + jnp.expand_dims(layer["bias"], range(inputs.ndim - 1))
    return inputs
