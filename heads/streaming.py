"""``training.run`` over rows that do not fit into memory: the same steps, block by block.

The order of the rows is that of a run in memory. While the device works on one block, a thread
reads the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .features import RowSource
from .model import ModelSpec
from .rows import Rows
from .training import (
    Batches,
    Curves,
    Member,
    Plan,
    Progress,
    begin,
    end_epoch,
    flip,
    going,
    mean_nll,
    shuffled_batches,
    step,
)


def fit_streamed(
    spec: ModelSpec,
    plan: Plan,
    params_S: Any,
    member_S: Member,
    train: RowSource,
    validation: RowSource,
    key: Array,
) -> tuple[Any, Curves]:
    """``training.fit_members`` with rows that are read while it runs."""
    steps = plan.steps(len(train))
    progress_S = _begin(plan, steps, params_S, member_S)
    # Members that have stopped are frozen by end_epoch: the loop ends with the last one.
    while bool(jnp.any(_going(plan, progress_S))):
        number = int(progress_S.epoch.max())
        order = shuffled_batches(jax.random.fold_in(key, number), len(train), plan.batch_size)
        carry_S = jax.tree.map(jnp.copy, (progress_S.params, progress_S.optimiser))
        losses = []
        for rows, mask in _read_ahead(train, order):
            carry_S, loss_SxT = _block(spec, plan, steps, member_S, carry_S, rows, mask)
            losses.append(loss_SxT)
        nll_S = _validation_nll(spec, member_S, carry_S[0], validation)
        losses_SxT = jnp.concatenate(losses, axis=1)
        progress_S = _end_epoch(plan, progress_S, carry_S, losses_SxT, nll_S)
    return jax.vmap(flip)(progress_S.best), progress_S.curves


def _read_ahead(source: RowSource, order: Batches) -> Iterator[tuple[Rows, Array]]:
    """Blocks of whole batches, (T, B, D) rows and (T, B) masks, read before they are needed."""
    rows_TxB, mask_TxB = np.asarray(order.rows), order.mask
    batch_size = rows_TxB.shape[1]
    length = max(source.block_rows // batch_size, 1)

    def read(start: int) -> Rows:
        places_txB = rows_TxB[start : start + length]
        taken = source.take(places_txB.reshape(-1))
        return jax.tree.map(lambda a: a.reshape(*places_txB.shape, -1), taken)

    starts = range(0, len(rows_TxB), length)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0)
        for start in starts:
            block = jax.block_until_ready(ahead.result())
            if start + length < len(rows_TxB):
                ahead = reader.submit(read, start + length)
            yield block, mask_TxB[start : start + length]


@partial(jax.jit, static_argnames=("plan", "steps"))
def _begin(plan: Plan, steps: int, params_S: Any, member_S: Member) -> Progress:
    return jax.vmap(lambda params, member: begin(plan, params, member, steps))(params_S, member_S)


@partial(jax.jit, static_argnames=("plan",))
def _going(plan: Plan, progress_S: Progress) -> Array:
    return jax.vmap(partial(going, plan))(progress_S)


@partial(jax.jit, static_argnames=("spec", "plan", "steps"), donate_argnames=("carry_S",))
def _block(
    spec: ModelSpec,
    plan: Plan,
    steps: int,
    member_S: Member,
    carry_S: Any,
    rows_TxBxD: Rows,
    mask_TxB: Array,
) -> tuple[Any, Array]:
    """The steps of one block, and their losses (S, T)."""
    if spec.precision != "float32":
        rows_TxBxD = jax.tree.map(lambda array: array.astype(jnp.bfloat16), rows_TxBxD)

    def run(member: Member, carry: Any) -> tuple[Any, Array]:
        def one_step(carry: Any, batch: tuple[Rows, Array]) -> tuple[Any, Array]:
            return step(spec, plan, member, steps, carry, *batch)

        return jax.lax.scan(one_step, carry, (rows_TxBxD, mask_TxB))

    return jax.vmap(run)(member_S, carry_S)


@partial(jax.jit, static_argnames=("plan",))
def _end_epoch(
    plan: Plan, progress_S: Progress, carry_S: Any, losses_SxT: Array, nll_S: Array
) -> Progress:
    def end(progress: Progress, carry: Any, losses_T: Array, nll: Array) -> Progress:
        ended = end_epoch(plan, progress, carry, losses_T, nll)
        due = going(plan, progress)
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), ended, progress)

    return jax.vmap(end)(progress_S, carry_S, losses_SxT, nll_S)


def _validation_nll(
    spec: ModelSpec, member_S: Member, flipped_S: Any, validation: RowSource
) -> Array:
    """(S,) mean NLL of the validation rows, NaN without any."""
    sums = [_nll_sum(spec, member_S, flipped_S, block) for block in validation.blocks()]
    return sum(sums, jnp.zeros(len(jnp.asarray(member_S.num_heads)))) / (len(validation) or jnp.nan)


@partial(jax.jit, static_argnames=("spec",))
def _nll_sum(spec: ModelSpec, member_S: Member, flipped_S: Any, rows: Rows) -> Array:
    def total(member: Member, flipped: Any) -> Array:
        nll = mean_nll(spec, flip(flipped), rows, member.num_heads)
        return nll * rows.delta_NxD.shape[0]

    return jax.vmap(total)(member_S, flipped_S)
