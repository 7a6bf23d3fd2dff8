"""Full-batch L-BFGS: the exact solution of what is convex, compiled as one loop."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

Carry = tuple[Array, optax.OptState, Array, Array]


def minimise(
    loss: Callable[[Array], Array], start_D: Array, steps: int, tolerance: float
) -> tuple[Array, Array]:
    """The minimiser (D,) of a smooth convex loss, and the largest entry of the gradient there.

    Ends when no entry of the gradient exceeds ``tolerance``, or after ``steps``.
    """
    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def going(carry: Carry) -> Array:
        _, _, gradient_D, step = carry
        return (step < steps) & (jnp.max(jnp.abs(gradient_D)) > tolerance)

    def advance(carry: Carry) -> Carry:
        point_D, state, _, step = carry
        value, gradient = value_and_grad(point_D, state=state)
        gradient_D = jnp.asarray(gradient)
        updates, state = solver.update(
            gradient_D, state, point_D, value=value, grad=gradient_D, value_fn=loss
        )
        return jnp.asarray(optax.apply_updates(point_D, updates)), state, gradient_D, step + 1

    first = (start_D, solver.init(start_D), jnp.ones_like(start_D), jnp.array(0))
    point_D, *_ = jax.lax.while_loop(going, advance, first)
    return point_D, jnp.max(jnp.abs(jax.grad(loss)(point_D)))
