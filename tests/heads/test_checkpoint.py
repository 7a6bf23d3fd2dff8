"""Trained methods on disk: what is written comes back, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from micro_rm.cache.schema import StoreError
from micro_rm.heads.checkpoint import ARRAYS, SPECS, load_models, save_models
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.model import ModelSpec, RouterKind, init

D, K = 4, 3


def trained(kind: RouterKind, draws: int, seed: int) -> Trained:
    """A model with the given number of different routers."""
    spec = ModelSpec(D, K, kind, router_units=5)
    models = [init(spec, jax.random.key(seed + draw)) for draw in range(draws)]
    routers = jax.tree.map(lambda *leaves: np.stack(leaves), *[m["router"] for m in models])
    curves = {"objective": np.arange(3, dtype=np.float32)} if draws == 1 else {}
    return Trained(spec, {"heads": models[0]["heads"], "router": routers}, curves)


@pytest.fixture(scope="module")
def models() -> dict[str, Trained]:
    return {
        "single_bt": trained("static", 1, 0),
        "micro_stage1": trained("mlp", 1, 1),
        "micro": trained("linear", 2, 2),
    }


@pytest.fixture
def scaler() -> Scaler:
    scales = np.random.default_rng(0).uniform(1, 2, (3, D)).astype(np.float32)
    return Scaler(*scales)


@pytest.fixture
def run(models: dict[str, Trained], scaler: Scaler, tmp_path: Path) -> Path:
    save_models(tmp_path, models, scaler)
    return tmp_path


def edit_arrays(run: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    arrays = load_file(run / ARRAYS)
    change(arrays)
    save_file(arrays, run / ARRAYS)


def edit_index(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((run / SPECS).read_text("utf-8"))
    change(index)
    (run / SPECS).write_text(json.dumps(index), "utf-8")


def test_models_come_back_to_the_last_bit(
    models: dict[str, Trained], scaler: Scaler, run: Path
) -> None:
    loaded, loaded_scaler = load_models(run)
    assert list(loaded) == list(models)
    for name, model in models.items():
        assert loaded[name].spec == model.spec
        assert jax.tree.structure(loaded[name].params) == jax.tree.structure(dict(model.params))
        jax.tree.map(np.testing.assert_array_equal, loaded[name].params, model.params)
        assert loaded[name].curves.keys() == model.curves.keys()
        for kind, curve in model.curves.items():
            np.testing.assert_array_equal(loaded[name].curves[kind], curve)
    for field in ("delta_scale_D", "router_mean_D", "router_scale_D"):
        np.testing.assert_array_equal(getattr(loaded_scaler, field), getattr(scaler, field))


def test_a_loaded_model_predicts_what_the_saved_one_did(
    models: dict[str, Trained], scaler: Scaler, run: Path
) -> None:
    loaded, _ = load_models(run)
    rows = scaler.apply(*np.random.default_rng(1).normal(size=(2, 5, D)).astype(np.float32))
    for found, expected in zip(
        loaded["micro"].predict(rows), models["micro"].predict(rows), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_there_is_no_pickle_and_nothing_unfinished_in_the_directory(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [SPECS, ARRAYS]


def test_saving_again_replaces_what_was_there(
    models: dict[str, Trained], scaler: Scaler, run: Path
) -> None:
    save_models(run, {"micro": models["micro"]}, scaler)
    assert list(load_models(run)[0]) == ["micro"]


def test_a_missing_index_is_named_with_the_remedy(run: Path) -> None:
    (run / SPECS).unlink()
    with pytest.raises(StoreError, match=f"{run}: no trained model here; run micro-rm train"):
        load_models(run)


def test_missing_arrays_are_an_error_with_the_remedy(run: Path) -> None:
    (run / ARRAYS).unlink()
    with pytest.raises(StoreError, match="no trained model here; run micro-rm train"):
        load_models(run)


@pytest.mark.parametrize(
    "leaf", ["micro/heads/kernel", "micro_stage1/router/hidden/bias", "scaler/delta_scale_D"]
)
def test_a_missing_array_is_named_with_its_file_and_the_remedy(run: Path, leaf: str) -> None:
    edit_arrays(run, lambda arrays: arrays.pop(leaf))
    with pytest.raises(StoreError, match=rf"{ARRAYS}: damaged model .*{leaf}.*run micro-rm train"):
        load_models(run)


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [
        ("micro/heads/kernel", (D, K + 1)),
        ("micro/router/output/bias", (3, K)),  # 3 draws where the index says 2
        ("micro_stage1/router/hidden/kernel", (1, D + 1, 5)),
    ],
)
def test_a_misshapen_array_is_named_with_both_shapes(
    run: Path, leaf: str, shape: tuple[int, ...]
) -> None:
    edit_arrays(run, lambda arrays: arrays.update({leaf: np.zeros(shape, np.float32)}))
    with pytest.raises(StoreError) as caught:
        load_models(run)
    message = str(caught.value)
    assert str(run / ARRAYS) in message
    assert f"{leaf} is {shape}, expected " in message


def test_arrays_that_are_no_safetensors_are_an_error_with_a_remedy(run: Path) -> None:
    (run / ARRAYS).write_bytes((run / ARRAYS).read_bytes()[:100])
    with pytest.raises(StoreError, match=rf"{ARRAYS}: damaged model .*run micro-rm train"):
        load_models(run)


@pytest.mark.parametrize("text", ['{"format": 1, "meth', "[1, 2]", "{}"])
def test_an_index_that_cannot_be_read_is_an_error_with_a_remedy(run: Path, text: str) -> None:
    (run / SPECS).write_text(text, "utf-8")
    with pytest.raises(StoreError, match=r"damaged model .*run micro-rm train again"):
        load_models(run)


def test_a_spec_with_an_unknown_field_is_an_error_with_a_remedy(run: Path) -> None:
    edit_index(run, lambda index: index["methods"]["micro"]["spec"].update(depth=3))
    with pytest.raises(StoreError, match=r"damaged model .*depth.*run micro-rm train again"):
        load_models(run)


def test_another_format_is_refused_with_both_numbers(run: Path) -> None:
    edit_index(run, lambda index: index.update(format=2))
    with pytest.raises(StoreError, match=f"{SPECS}: format 2, expected 1"):
        load_models(run)
