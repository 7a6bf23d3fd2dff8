"""``training.fit_members`` over rows that do not fit into memory: the same steps, block by block.

The order of the rows is that of a run in memory. While the device works on one block, a thread
reads the next. The epoch loop runs in Python, because no compiled loop can read a file; its pieces
are those of ``epochs``.
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

from .epochs import (
    Batches,
    Curves,
    EpochCarry,
    begin,
    end_epoch,
    should_continue,
    shuffled_batches,
    take_step,
)
from .features import RowSource
from .model import ModelSpec
from .rows import Rows
from .training import (
    Hyperparams,
    TrainSpec,
    adamw,
    batch_loss,
    in_precision,
    mean_nll,
    transpose_params,
)


def fit_streamed(
    spec: ModelSpec,
    train_spec: TrainSpec,
    params_S: Any,
    hyper_S: Hyperparams,
    train: RowSource,
    validation: RowSource,
    key: Array,
) -> tuple[Any, Curves]:
    """``training.fit_members`` with rows that are read while it runs."""
    steps = train_spec.steps(len(train))
    carry_S = _begin(train_spec, steps, params_S, hyper_S)
    # Members that have stopped are frozen by _end_epoch: the loop ends with the last one.
    while bool(jnp.any(_should_continue(train_spec, carry_S))):
        epoch = int(carry_S.epoch.max())
        order = shuffled_batches(jax.random.fold_in(key, epoch), len(train), train_spec.batch_size)
        # Copies, because every block donates what the one before it has left.
        stepped_S = jax.tree.map(jnp.copy, (carry_S.params, carry_S.optimiser))
        losses = []
        for rows, mask in _read_ahead(train, order):
            stepped_S, loss_SxT = _take_steps(
                spec, train_spec, steps, hyper_S, stepped_S, rows, mask
            )
            losses.append(loss_SxT)
        nll_S = _validation_nll(spec, hyper_S, stepped_S[0], validation)
        losses_SxT = jnp.concatenate(losses, axis=1)
        carry_S = _end_epoch(train_spec, carry_S, stepped_S, losses_SxT, nll_S)
    return jax.vmap(transpose_params)(carry_S.kept), carry_S.curves


def _read_ahead(source: RowSource, order: Batches) -> Iterator[tuple[Rows, Array]]:
    """Blocks of whole batches, (T, B, D) rows and (T, B) masks, read before they are needed."""
    rows_TxB, mask_TxB = np.asarray(order.rows), order.mask
    batch_size = rows_TxB.shape[1]
    length = max(source.block_rows // batch_size, 1)

    def read(start: int) -> Rows:
        rows_txB = rows_TxB[start : start + length]
        taken = source.take(rows_txB.reshape(-1))
        return jax.tree.map(lambda a: a.reshape(*rows_txB.shape, -1), taken)

    starts = range(0, len(rows_TxB), length)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0)
        for start in starts:
            block = jax.block_until_ready(ahead.result())
            if start + length < len(rows_TxB):
                ahead = reader.submit(read, start + length)
            yield block, mask_TxB[start : start + length]


@partial(jax.jit, static_argnames=("train_spec", "steps"))
def _begin(train_spec: TrainSpec, steps: int, params_S: Any, hyper_S: Hyperparams) -> EpochCarry:
    """The carry of every member before the first epoch."""

    def one(params: Any, hyper: Hyperparams) -> EpochCarry:
        optimiser = adamw(hyper, train_spec.warmup, steps)
        return begin(train_spec.stopping, transpose_params(params), optimiser)

    return jax.vmap(one)(params_S, hyper_S)


@partial(jax.jit, static_argnames=("train_spec",))
def _should_continue(train_spec: TrainSpec, carry_S: EpochCarry) -> Array:
    return jax.vmap(partial(should_continue, train_spec.stopping))(carry_S)


@partial(jax.jit, static_argnames=("spec", "train_spec", "steps"), donate_argnames=("stepped_S",))
def _take_steps(
    spec: ModelSpec,
    train_spec: TrainSpec,
    steps: int,
    hyper_S: Hyperparams,
    stepped_S: Any,
    rows_TxBxD: Rows,
    mask_TxB: Array,
) -> tuple[Any, Array]:
    """The steps of one block, and their losses (S, T)."""
    rows_TxBxD = in_precision(spec, rows_TxBxD)

    def one(hyper: Hyperparams, stepped: Any) -> tuple[Any, Array]:
        def loss(transposed: Any, _fixed: None, batch: tuple[Rows, Array]) -> Any:
            return batch_loss(spec, hyper, transposed, *batch)

        optimiser = adamw(hyper, train_spec.warmup, steps)
        stepped, (losses_T, _) = jax.lax.scan(
            partial(take_step, optimiser, loss, None), stepped, (rows_TxBxD, mask_TxB)
        )
        return stepped, losses_T

    return jax.vmap(one)(hyper_S, stepped_S)


@partial(jax.jit, static_argnames=("train_spec",))
def _end_epoch(
    train_spec: TrainSpec, carry_S: EpochCarry, stepped_S: Any, losses_SxT: Array, nll_S: Array
) -> EpochCarry:
    """The carry after an epoch; a member that had stopped before it is left as it was."""
    stopping = train_spec.stopping

    def one(carry: EpochCarry, stepped: Any, losses_T: Array, nll: Array) -> EpochCarry:
        ended = end_epoch(stopping, carry, stepped, losses_T, {}, nll)
        due = should_continue(stopping, carry)
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), ended, carry)

    return jax.vmap(one)(carry_S, stepped_S, losses_SxT, nll_S)


def _validation_nll(
    spec: ModelSpec, hyper_S: Hyperparams, transposed_S: Any, validation: RowSource
) -> Array:
    """(S,) mean NLL of the validation rows, NaN without any."""
    sums = [_nll_sum(spec, hyper_S, transposed_S, block) for block in validation.blocks()]
    return sum(sums, jnp.zeros(len(jnp.asarray(hyper_S.num_heads)))) / (len(validation) or jnp.nan)


@partial(jax.jit, static_argnames=("spec",))
def _nll_sum(spec: ModelSpec, hyper_S: Hyperparams, transposed_S: Any, rows: Rows) -> Array:
    """(S,) summed NLL of a block: blocks differ in size, so means could not be averaged."""

    def one(hyper: Hyperparams, transposed: Any) -> Array:
        nll = mean_nll(spec, transpose_params(transposed), rows, hyper.num_heads)
        return nll * rows.delta_NxD.shape[0]

    return jax.vmap(one)(hyper_S, transposed_S)
