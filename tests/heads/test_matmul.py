"""Products in 16 bits against float64, their gradients, and rows of 16-bit arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.matmul import Precision, product, take_rows

# Largest error, as a share of the sum of the absolute terms.
BOUND = {"float32": 1e-6, "bfloat16_split": 2**-16, "bfloat16": 2**-8}
SIXTEEN: tuple[Precision, ...] = ("bfloat16_split", "bfloat16")
B, D, K = 24, 16, 3


def rounded(array: Any) -> jax.Array:
    """Nearest numbers of 16 bits, as float32."""
    return jnp.asarray(array, jnp.bfloat16).astype(jnp.float32)


@pytest.fixture(scope="module")
def operands() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features that 16 bits hold exactly, a kernel and a gradient that they do not."""
    rng = np.random.default_rng(0)
    features_BxD = rounded(rng.normal(size=(B, D)))
    kernel_DxK, gradient_BxK = rng.normal(size=(D, K)), rng.normal(size=(B, K))
    return features_BxD, jnp.asarray(kernel_DxK, jnp.float32), jnp.asarray(gradient_BxK, "float32")


def worst(found: Any, left: Any, right: Any) -> float:
    """Largest error of a product, as a share of the sum of its absolute terms."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float((np.abs(found - left @ right) / (np.abs(left) @ np.abs(right))).max())


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_are_those_of_plain_indexing_bit_by_bit(dtype: Any) -> None:
    numbers = np.random.default_rng(1).normal(size=(9, 5))
    numbers[2, :4] = [np.nan, np.inf, -0.0, 1e-40]
    array_NxD = jnp.asarray(numbers, dtype)
    rows_B = jnp.array([8, 2, 2, 0, 5])
    found = jax.jit(take_rows)(array_NxD, rows_B)
    assert found.dtype == dtype and found.shape == (5, 5)
    assert np.asarray(found).tobytes() == np.asarray(array_NxD)[np.asarray(rows_B)].tobytes()


def test_members_share_the_rows_that_they_take() -> None:
    array_NxD = rounded(np.arange(12).reshape(6, 2)).astype(jnp.bfloat16)
    rows_SxB = jnp.array([[0, 5], [3, 3]])
    found = jax.vmap(lambda rows: take_rows(array_NxD, rows))(rows_SxB)
    np.testing.assert_array_equal(found, np.asarray(array_NxD)[np.asarray(rows_SxB)])


# --- products -------------------------------------------------------------------------------------


def test_errors_stay_within_the_bits_of_each_precision(operands: Any) -> None:
    """Compiled, too: XLA must not find the lower part of a split to be zero."""
    features_BxD, kernel_DxK, _ = operands
    error = {}
    for precision, bound in BOUND.items():
        found = jax.jit(product, static_argnums=2)(features_BxD, kernel_DxK, precision)
        assert found.dtype == jnp.float32 and found.shape == (B, K)
        error[precision] = worst(found, features_BxD, kernel_DxK)
        assert error[precision] < bound
    assert error["bfloat16"] > 2**-12, "16 bits must have been rounded to"
    assert error["bfloat16_split"] > error["float32"]


@pytest.mark.parametrize("precision", SIXTEEN)
def test_features_are_rounded_and_once_only(operands: Any, precision: Precision) -> None:
    _, kernel_DxK, _ = operands
    features_BxD = jnp.asarray(np.random.default_rng(2).normal(size=(B, D)), jnp.float32)
    found = product(features_BxD, kernel_DxK, precision)
    for narrow in (rounded(features_BxD), features_BxD.astype(jnp.bfloat16)):
        np.testing.assert_array_equal(found, product(narrow, kernel_DxK, precision))
    assert worst(found, features_BxD, kernel_DxK) > 2**-14


def test_a_16_bit_product_is_the_exact_product_of_rounded_operands(operands: Any) -> None:
    features_BxD, kernel_DxK, _ = operands
    found = product(features_BxD, kernel_DxK, "bfloat16")
    assert worst(found, features_BxD, rounded(kernel_DxK)) < BOUND["float32"]


@pytest.mark.parametrize("precision", list(BOUND))
def test_gradients_of_the_kernel(operands: Any, precision: Precision) -> None:
    features_BxD, kernel_DxK, gradient_BxK = operands
    _, pull = jax.vjp(lambda kernel: product(features_BxD, kernel, precision), kernel_DxK)
    (found,) = pull(gradient_BxK)
    assert found.shape == (D, K) and found.dtype == jnp.float32
    assert worst(found, features_BxD.T, gradient_BxK) < BOUND[precision]
    if precision == "bfloat16":
        assert worst(found, features_BxD.T, gradient_BxK) > 2**-12
        assert worst(found, features_BxD.T, rounded(gradient_BxK)) < BOUND["float32"]


@pytest.mark.parametrize("precision", SIXTEEN)
def test_no_gradient_reaches_the_features_of_16_bits(operands: Any, precision: Precision) -> None:
    features_BxD, kernel_DxK, _ = operands
    found = jax.grad(lambda f: jnp.sum(product(f, kernel_DxK, precision)))(features_BxD)
    np.testing.assert_array_equal(found, np.zeros((B, D)))
    full = jax.grad(lambda f: jnp.sum(product(f, kernel_DxK, "float32")))(features_BxD)
    np.testing.assert_allclose(full, np.tile(kernel_DxK.sum(axis=1), (B, 1)), rtol=1e-5)


@pytest.mark.parametrize("precision", SIXTEEN)
def test_members_have_the_products_and_gradients_of_each_alone(
    operands: Any, precision: Precision
) -> None:
    features_BxD, kernel_DxK, gradient_BxK = operands
    kernel_SxDxK = jnp.stack([kernel_DxK, -2 * kernel_DxK + 1])

    def both(kernel: Any) -> tuple[Any, Any]:
        out, pull = jax.vjp(lambda k: product(features_BxD, k, precision), kernel)
        return out, pull(gradient_BxK * out)[0]

    found = jax.vmap(both)(kernel_SxDxK)
    for member, kernel in enumerate(kernel_SxDxK):
        for leaf, alone in zip(found, both(kernel), strict=True):
            np.testing.assert_allclose(leaf[member], alone, rtol=1e-5, atol=1e-4)
