"""Rows that are read while they are trained on: the same steps and numbers as in memory."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.cache.schema import StoreError
from micro_rm.configs.train import TrainConfig
from micro_rm.heads import stages
from micro_rm.heads.checkpoint import load_models
from micro_rm.heads.ensemble import draw, stack
from micro_rm.heads.epochs import NOT_RUN
from micro_rm.heads.features import BLOCK_BYTES, FeatureMemoryError, Features, RowSource, Scaler
from micro_rm.heads.methods import load_method
from micro_rm.heads.model import ModelSpec
from micro_rm.heads.streaming import fit_streamed
from micro_rm.heads.training import Hyperparams, TrainSpec, fit_members
from micro_rm.tests.heads.tiny_run import run_config

D, N, HELD_OUT, BATCH = 6, 53, 17, 8


class CountingStore:
    """Vectors in memory that remember which rows were asked for, and how."""

    path = Path("counting")

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self.asked: dict[str, list[np.ndarray]] = {"vectors": [], "gather": []}

    @property
    def width(self) -> int:
        return self._vectors.shape[1]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        self.asked["vectors"].append(rows)
        return self._vectors[rows]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.asked["gather"].append(rows)
        return self._vectors[rows]


def asked_of(source: RowSource) -> dict[str, list[np.ndarray]]:
    """What a source has asked of its store."""
    store: Any = source.features.store
    return store.asked


def make_source(
    count: int, block_rows: int | None, seed: int = 0, scaler: Scaler | None = None
) -> RowSource:
    """Random rows, streamed in blocks of so many; None holds them in memory.

    The first half of the store are training rows, the second half is never asked for.
    """
    vectors = np.random.default_rng(seed).normal(size=(6 * max(count, 1), D)).astype(np.float32)
    places = np.arange(2 * count)
    rows = {f"plain/{role}": 3 * places + n for n, role in enumerate(("chosen", "rejected"))}
    table: Any = SimpleNamespace(name="table", rows={**rows, "plain/prompt": 3 * places + 2})
    memory = None if block_rows is None else 2.0 * block_rows * D * BLOCK_BYTES
    return RowSource(
        Features(CountingStore(vectors), table),
        np.arange(count),
        "plain",
        "plain",
        scaler or Scaler.identity(D),
        memory,
    )


# --- what is in memory ----------------------------------------------------------------------------


def test_the_memory_of_rows_and_of_a_block() -> None:
    """24 bytes per number; rows may take a quarter of the memory, a block half of it."""
    everything = make_source(N, None)
    assert everything.bytes == N * D * 24 and len(everything) == N
    assert not everything.streamed and everything.block_rows == N
    for quarter, streamed in ((everything.bytes, False), (everything.bytes - 1, True)):
        source = replace(everything, memory=4.0 * quarter)
        assert source.streamed is streamed
    assert replace(everything, memory=4.0 * everything.bytes).block_rows == N
    # Two blocks of 10 rows and a bit: the bit is lost.
    assert replace(everything, memory=2 * 10.9 * D * 24).block_rows == 10
    assert replace(everything, memory=1.0).block_rows == 1


def test_no_rows_are_never_streamed() -> None:
    nothing = replace(make_source(3, None), rows_N=np.array([], np.int64), memory=1.0)
    assert not nothing.streamed and nothing.bytes == 0 and list(nothing.blocks()) == []
    assert nothing.all.delta_NxD.shape == (0, D)


@pytest.mark.parametrize("block_rows", [7, 60])
def test_blocks_are_the_rows_in_order(block_rows: int) -> None:
    scaler = Scaler(*np.random.default_rng(1).uniform(0.5, 2, (3, D)).astype(np.float32))
    source = make_source(N, block_rows, scaler=scaler)
    blocks = list(source.blocks())
    assert source.block_rows == block_rows and source.streamed
    assert [len(block.delta_NxD) for block in blocks[:-1]] == [block_rows] * (len(blocks) - 1)
    whole = make_source(N, None, scaler=scaler)
    for number, array in enumerate(whole.all):
        joined = np.concatenate([block[number] for block in blocks])
        # Compiled for other shapes, a division may differ in the last bit.
        np.testing.assert_allclose(joined, array, rtol=3e-7)
    assert not asked_of(source)["vectors"], "mapped rows would fill the memory"
    assert not asked_of(whole)["gather"]


def test_rows_in_memory_are_read_once() -> None:
    source = make_source(N, None)
    assert source.all is source.all
    assert len(asked_of(source)["vectors"]) == 3


def test_a_missing_view_is_an_error_before_anything_is_read() -> None:
    source = make_source(N, 8)
    with pytest.raises(StoreError, match="no ctx/chosen vectors"):
        replace(source, head="ctx")


# --- training -------------------------------------------------------------------------------------

SPEC = ModelSpec(D, 3, "linear")
# The two members differ in rate and K; the first overfits at once and stops, where that is allowed.
MEMBERS = [
    Hyperparams.from_config(TrainConfig(learning_rate=0.3), 3),
    Hyperparams.from_config(TrainConfig(learning_rate=0.003, entropy_weight=0.1), 2),
]
KEY = jax.random.key(4)


def fresh() -> tuple[Any, Any]:
    """Parameters of both members, new because they are donated."""
    return draw(SPEC, jax.random.split(jax.random.key(0), 2)), stack(MEMBERS)


def both_ways(
    config: TrainConfig, block_rows: int, held_out: int, spec: ModelSpec = SPEC
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The run in memory and the streamed one."""
    train_spec = TrainSpec.from_config(config, validated=held_out > 0)
    train, validation = make_source(N, None), make_source(held_out, None, seed=1)
    memory = fit_members(spec, train_spec, *fresh(), train.all, validation.all, KEY)
    streams = (make_source(N, block_rows), make_source(held_out, min(block_rows, 9), seed=1))
    return memory, fit_streamed(spec, train_spec, *fresh(), *streams, KEY)


@pytest.mark.parametrize(
    ("block_rows", "held_out", "changes"),
    [
        # Less than a batch: one batch at a time.
        pytest.param(3, 0, {"patience": 1}, marks=pytest.mark.long),
        (7 * BATCH, HELD_OUT, {"select": "last"}),  # all steps in one block
        # Two batches, which do not divide the seven steps.
        pytest.param(20, HELD_OUT, {"patience": 2}, marks=pytest.mark.long),
    ],
)
def test_a_streamed_run_is_the_run_in_memory(
    block_rows: int, held_out: int, changes: dict[str, Any]
) -> None:
    config = TrainConfig(batch_size=BATCH, epochs=5, router="linear", **changes)
    (params, curves), (streamed, streamed_curves) = both_ways(config, block_rows, held_out)
    both = (jax.tree.leaves(one) for one in (curves, streamed_curves))
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one == NOT_RUN, other == NOT_RUN)
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), streamed, params)
    epochs = (np.asarray(curves.objective) != NOT_RUN).sum(axis=1)
    if config.patience and held_out:
        assert epochs[0] < 5 and epochs[0] < epochs[1], "one member must stop before the other"
    else:
        assert (epochs == 5).all()
    nll_E = np.asarray(curves.validation_nll)[0, : epochs[0]]
    assert nll_E.argmin() < len(nll_E) - 1 or not held_out, "the best must not be the last"


@pytest.mark.long
def test_a_streamed_run_in_16_bits_is_the_run_in_memory() -> None:
    config = TrainConfig(batch_size=BATCH, epochs=5, router="linear", select="last")
    memory, streamed = both_ways(config, 20, HELD_OUT, replace(SPEC, precision="bfloat16"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), streamed, memory)
    exact, _ = both_ways(config, 7 * BATCH, HELD_OUT)
    kernels = [np.asarray(run[0]["heads"]["kernel"]) for run in (memory, exact)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-5, "16 bits must have been used"


@pytest.mark.long
def test_every_row_is_read_once_an_epoch() -> None:
    """The filling of the last batch reads some row again."""
    block_rows, count, epochs = 20, N, 2
    train_spec = TrainSpec.from_config(
        TrainConfig(batch_size=BATCH, epochs=epochs), validated=False
    )
    source, nothing = make_source(count, block_rows), make_source(0, None)
    params, members = fresh()
    fit_streamed(SPEC, train_spec, params, members, source, nothing, KEY)
    asked = asked_of(source)
    assert not asked["vectors"]
    seen = Counter(np.concatenate(asked["gather"]).tolist())
    filling = -count % BATCH
    assert set(seen) == set(range(3 * count)), "each of three roles, of each of the rows"
    assert sum(seen.values()) == 3 * epochs * (count + filling)
    assert sorted(seen.values())[: 3 * (count - 1)] == [epochs] * (3 * (count - 1))
    largest = max(len(rows) for rows in asked["gather"])
    assert largest == max(block_rows // BATCH, 1) * BATCH
    orders = [np.concatenate(asked["gather"][0::3])[: count + filling]]
    orders.append(np.concatenate(asked["gather"][0::3])[count + filling :])
    assert (orders[0] != orders[1]).any(), "every epoch has an order of its own"


@pytest.mark.long
def test_an_epoch_that_patience_leaves_out_is_not_read() -> None:
    train_spec = TrainSpec.from_config(
        TrainConfig(batch_size=BATCH, epochs=5, patience=1), validated=True
    )
    source, held_out = make_source(N, 20), make_source(HELD_OUT, 9, seed=1)
    params, members = fresh()
    params, members = jax.tree.map(lambda leaf: leaf[:1], (params, members))
    _, curves = fit_streamed(SPEC, train_spec, params, members, source, held_out, KEY)
    epochs = int((np.asarray(curves.objective) != NOT_RUN).sum())
    assert epochs < 5
    assert sum(map(len, asked_of(source)["gather"])) == 3 * 56 * epochs
    assert sum(map(len, asked_of(held_out)["gather"])) == 3 * HELD_OUT * epochs


# --- methods and stages ---------------------------------------------------------------------------


def tiny_memory(rows: int) -> float:
    """GiB under which so many rows of the tiny store are held, and one more is streamed."""
    return 4 * rows * 8 * BLOCK_BYTES / 2**30


def test_a_method_that_cannot_stream_says_what_to_change(make_run_data: Any) -> None:
    train = TrainConfig(validation_fraction=0.2, memory_gib=tiny_memory(20))
    problem = make_run_data(train=train).problem(adapt=False)
    with pytest.raises(FeatureMemoryError) as caught:
        load_method("single_bt_exact").fit(problem, {})
    message = str(caught.value)
    rows = len(problem.train.data)
    assert message.startswith(f"{rows} rows of 8 numbers need 0.00 GiB; train.memory_gib = ")
    assert "only single_bt, static_mixture, micro_stage1 and micro can stream them" in message


@pytest.mark.long
def test_a_run_with_little_memory_gives_the_same_report(tiny: Any, tmp_path: Path) -> None:
    """All stages. The 16 labelled rows are held, training, validation and test are streamed."""
    reports, curves = [], []
    for name, memory in (("whole", None), ("small", tiny_memory(16))):
        config = run_config(tiny, tmp_path / name)
        config = replace(
            config,
            methods="micro",
            train=replace(
                config.train, router="linear", features="standardized", memory_gib=memory
            ),
            adapt=replace(config.adapt, budget=8, draws=1, epochs=5),
        )
        run_data = stages.open_run_data(config)
        assert (run_data.stage2(run_data.parts.test).stream is None) == (memory is None)
        stages.train(config)
        stages.adapt(config)
        reports.append(stages.evaluate(config))
        models, _ = load_models(tmp_path / name)
        curves.append({name: dict(model.curves) for name, model in models.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *curves)
    numbers = [
        {
            method: [entry["macro"], entry["attributes"]]
            for method, entry in json.loads(json.dumps(report["methods"])).items()
        }
        for report in reports
    ]
    jax.tree.map(close, *numbers)


def close(one: Any, other: Any) -> None:
    """Numbers that agree up to rounding, and anything else that is equal."""
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4)
    else:
        assert one == other


def test_streamed_rows_are_on_the_device_as_32_bits() -> None:
    rows = make_source(N, 8).take(np.array([3, 0]))
    assert isinstance(rows.delta_NxD, jax.Array) and rows.delta_NxD.dtype == jnp.float32
