"""Stages over data that lack something, come with a head of their own, or are damaged."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from micro_rm.cache.native_head import write_native_head
from micro_rm.cache.pairs import write_pairs
from micro_rm.cache.schema import StoreError
from micro_rm.configs.schema import Config, StoreConfig
from micro_rm.heads import stages
from micro_rm.heads.checkpoint import save_models
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.model import ModelSpec
from micro_rm.heads.partition import partition
from micro_rm.tests.heads.tiny_run import ORACLE, VALIDATED, predictions, run_config, store_beside


@pytest.fixture
def config(tiny: Any, tmp_path: Path) -> Config:
    return run_config(tiny, tmp_path)


def test_a_run_without_validation_rows_writes_null_not_nan(config: Config, tmp_path: Path) -> None:
    config = replace(
        config,
        methods=["single_bt"],
        train=replace(config.train, epochs=1, validation_fraction=0.0),
    )
    stages.train(config)
    assert '"validation_nll": null' in (tmp_path / "metrics.jsonl").read_text("utf-8")


@pytest.mark.long
def test_without_validation_rows_no_head_can_be_chosen_but_by_the_oracle(
    config: Config,
) -> None:
    config = replace(
        config,
        methods=["micro_stage1"],
        train=replace(config.train, epochs=1, validation_fraction=0.0),
    )
    stages.train(config)
    assert list(stages.evaluate(config)["methods"]) == ["micro_stage1", ORACLE]


def test_a_method_that_the_data_cannot_serve_is_left_out_of_training_too(
    config: Config,
) -> None:
    config = replace(config, methods="native_head,length_only")
    models, skipped = stages.train(config)
    assert list(models) == ["length_only"]
    assert skipped == {"native_head": "the backbone has no reward head of its own"}
    report = stages.evaluate(config)
    assert report["skipped"] == skipped
    assert list(report["methods"]) == ["length_only"]
    assert report["heads"] == {}


def test_the_backbones_own_head_is_read_from_the_store_and_scored(
    tiny: Any, config: Config, tmp_path: Path
) -> None:
    """Accuracies are those of raw vectors times the head."""
    store = store_beside(tiny, tmp_path / "store")
    head_D = np.array([1, 0.2, 0, 0, 1, 0, 0, 0], np.float32)
    write_native_head(Path(store.dir), head_D)
    config = replace(
        config,
        methods="native_head",
        store=store,
        train=replace(config.train, features="standardized"),
    )
    stages.train(config)
    report = stages.evaluate(config)
    margin_N = (tiny.vectors["ctx/chosen"] - tiny.vectors["ctx/rejected"])[80:] @ head_D
    for number, name in enumerate(("brief", "polite")):
        found = report["methods"]["native_head"]["attributes"][name]["accuracy"]
        assert found == np.mean(margin_N[number::2] > 0)
    found_N = [row["probability"] for row in predictions(tmp_path, "native_head")]
    np.testing.assert_allclose(found_N, 1 / (1 + np.exp(-margin_N)), rtol=1e-4)


def test_vectors_made_under_other_settings_are_refused_by_name(config: Config) -> None:
    """Only what changes a vector counts: the same weights may lie under another name."""
    other = replace(config.backbone, max_length=77, name="elsewhere")
    with pytest.raises(StoreError) as caught:
        stages.train(replace(config, backbone=other))
    message = str(caught.value)
    assert "backbone.max_length: the store has" in message
    assert "this run has 77" in message
    assert "backbone.name" not in message
    assert "run micro-rm embed" in message


def test_the_best_head_is_chosen_on_validation_rows_and_no_others(
    tiny: Any, config: Config, tmp_path: Path
) -> None:
    """Of forty heads that read noise, every set of rows prefers another.

    No test row takes part in the choice, and the oracle is above it.
    """
    kernel_DxK = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32)
    kernel_DxK[:2] = 0  # where the tastes are
    spec = ModelSpec(8, 40, "static")
    params = {"heads": {"kernel": kernel_DxK}, "router": {"logits": np.zeros((1, 40), np.float32)}}
    guessing = Trained(params, {"spec": asdict(spec)})
    save_models(tmp_path, {"micro_stage1": guessing}, Scaler.identity(8))
    report = stages.evaluate(config)
    parts = partition(tiny.table, config.train.validation_fraction)
    delta_NxD = tiny.vectors["plain/chosen"] - tiny.vectors["plain/rejected"]

    def accuracy(rows: np.ndarray, attribute: int) -> np.ndarray:
        return ((delta_NxD[rows[rows % 2 == attribute]] @ kernel_DxK) > 0).mean(axis=0)

    def shown(row: str) -> list[float]:
        return [cell["accuracy"] for cell in report["methods"][row]["attributes"].values()]

    def chosen_by(rows: np.ndarray) -> list[float]:
        """Test accuracy per attribute of the head that is best on some rows."""
        best = [int(np.argmax(accuracy(rows, attribute))) for attribute in (0, 1)]
        return [float(accuracy(parts.test, a)[head]) for a, head in enumerate(best)]

    validated, oracle, by_training = map(chosen_by, (parts.validation, parts.test, parts.train))
    assert shown(VALIDATED) == pytest.approx(validated)
    assert shown(ORACLE) == pytest.approx(oracle)
    assert validated != by_training, "the example must tell them apart"
    assert all(best >= other for best, other in zip(oracle, validated, strict=True))
    assert sum(oracle) > sum(validated)


@pytest.fixture
def copied(tiny: Any, config: Config, tmp_path: Path) -> Config:
    """The run's configuration over a copy of the tiny store, which may be damaged."""
    store = tmp_path / "store"
    shutil.copytree(tiny.store, store)
    write_native_head(store, np.ones(8))
    return replace(config, store=StoreConfig(str(store)))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["shards/000000.h5", "pairs/tiny.h5", "native_head.h5"])
def test_a_changed_byte_is_found_before_anything_is_learnt(name: str, copied: Config) -> None:
    store = Path(copied.store.dir)
    stages.open_run_data(copied)
    flip(store / name, -1)
    with pytest.raises(StoreError, match=f"{name}: .*(bytes)"):
        stages.open_run_data(copied)


def test_checksums_can_be_left_out_but_not_what_is_cheap(copied: Config, tiny: Any) -> None:
    """Who leaves them out still hears of NaN, of other shards and of a missing file."""
    store = Path(copied.store.dir)
    config = replace(copied, store=replace(copied.store, checksum=False))
    shard = store / "shards" / "000000.h5"
    with h5py.File(shard, "r+") as file:
        vectors = file["vectors"]
        assert isinstance(vectors, h5py.Dataset)
        vectors[:] = np.full(vectors.shape, np.nan) if vectors.dtype == np.float32 else 0x7FC0
    run_data = stages.open_run_data(config)
    rows = np.arange(3)
    with pytest.raises(StoreError, match="holds NaN or infinity; micro-rm verify"):
        run_data.features.stored(rows, "ctx", "chosen")
    write_pairs(store, replace(tiny.table, layout="1:" + "0" * 32))
    with pytest.raises(StoreError, match="'tiny' are those of other shards"):
        stages.open_run_data(config)
    shard.unlink()
    with pytest.raises(StoreError, match=r"000000\.h5: missing"):
        stages.open_run_data(config)
