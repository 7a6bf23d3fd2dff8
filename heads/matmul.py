"""Products of features with parameters in 16 bits, and rows of 16-bit features (pure).

Features are rounded once, parameters and gradients in every product; sums are float32 and so are
the parameters that the optimiser moves. ``bfloat16_split`` writes a float32 matrix as the sum of
two bfloat16 ones, which keeps 16 of its 24 bits at the price of a second product.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Precision = Literal["float32", "bfloat16_split", "bfloat16"]


def take_rows(array_NxD: Array, rows_B: Array) -> Array:
    """(B, D) rows of an array. 16-bit numbers travel as bits: XLA on CPUs has no gather of
    bfloat16 and would convert the whole array instead."""
    if array_NxD.dtype != jnp.bfloat16:
        return array_NxD[rows_B]
    bits_BxD = lax.bitcast_convert_type(array_NxD, jnp.uint16)[rows_B]
    return lax.bitcast_convert_type(bits_BxD, jnp.bfloat16)


def product(features_BxD: Array, kernel_DxK: Array, precision: Precision) -> Array:
    """``features @ kernel``, float32. No gradient reaches the features of a 16-bit product."""
    if precision == "float32":
        return features_BxD @ kernel_DxK
    return _narrow_product(features_BxD.astype(jnp.bfloat16), kernel_DxK, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow_product(features_BxD: Array, kernel_DxK: Array, precision: Precision) -> Array:
    return _sum([_dot(features_BxD, part_DxK) for part_DxK in _parts(kernel_DxK, precision)])


def _forward(features_BxD: Array, kernel_DxK: Array, precision: Precision) -> tuple[Array, Array]:
    return _narrow_product(features_BxD, kernel_DxK, precision), features_BxD


def _backward(precision: Precision, features_BxD: Array, gradient_BxK: Array) -> tuple[None, Array]:
    # As (K, B) by (B, D): with both operands transposed, XLA on CPUs leaves its fast path.
    parts = _parts(gradient_BxK.T, precision)
    return None, _sum([_dot(part_KxB, features_BxD) for part_KxB in parts]).T


_narrow_product.defvjp(_forward, _backward)


def _sum(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _dot(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _parts(matrix: Array, precision: Precision) -> list[Array]:
    high = matrix.astype(jnp.bfloat16)
    if precision == "bfloat16":
        return [high]
    # Without the barrier XLA may cancel the rounding and find the difference to be zero.
    rounded = lax.optimization_barrier(high).astype(jnp.float32)
    return [high, (matrix - rounded).astype(jnp.bfloat16)]
