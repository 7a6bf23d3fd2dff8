"""Trained methods on disk: what is written comes back, and damage is named."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from micro_rm.cache.schema import StoreError
from micro_rm.heads.checkpoint import (
    ARRAYS,
    FORMAT_VERSION,
    INDEX,
    load_failures,
    load_models,
    load_seeds,
    save_models,
    save_seeds,
)
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
    params = {"heads": models[0]["heads"], "router": routers}
    return Trained(params, {"spec": asdict(spec)}, curves)


@pytest.fixture(scope="module")
def models() -> dict[str, Trained]:
    return {
        "single_bt": trained("static", 1, 0),
        "micro_stage1": trained("mlp", 1, 1),
        "micro": trained("linear", 2, 2),
        # A method that is neither heads nor a router keeps what it likes.
        "length_only": Trained({"slope": np.array([0.25])}, {"note": [1, None, {"deep": "x"}]}),
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
    index = json.loads((run / INDEX).read_text("utf-8"))
    change(index)
    (run / INDEX).write_text(json.dumps(index), "utf-8")


def test_models_come_back_to_the_last_bit(
    models: dict[str, Trained], scaler: Scaler, run: Path
) -> None:
    loaded, loaded_scaler = load_models(run)
    assert list(loaded) == list(models)
    for name, model in models.items():
        assert loaded[name].settings == model.settings
        assert jax.tree.structure(loaded[name].params) == jax.tree.structure(dict(model.params))
        jax.tree.map(np.testing.assert_array_equal, loaded[name].params, model.params)
        assert loaded[name].curves.keys() == model.curves.keys()
        for kind, curve in model.curves.items():
            np.testing.assert_array_equal(loaded[name].curves[kind], curve)
    for field in ("delta_scale_D", "router_mean_D", "router_scale_D"):
        np.testing.assert_array_equal(getattr(loaded_scaler, field), getattr(scaler, field))


def test_the_models_of_further_seeds_come_back_and_none_of_an_older_run(
    models: dict[str, Trained], scaler: Scaler, tmp_path: Path
) -> None:
    one, two, three = (
        Trained({"head": np.full(3, value, np.float32)}) for value in (1.0, 2.0, 3.0)
    )
    save_seeds(tmp_path, {"a": [one, two, three], "exact": [one]}, scaler, {"bad": "no rows"})
    loaded, _ = load_seeds(tmp_path)
    assert [float(model.params["head"][0]) for model in loaded["a"]] == [1, 2, 3]
    assert len(loaded["exact"]) == 1
    assert load_failures(tmp_path) == {"bad": "no rows"}
    assert float(load_models(tmp_path)[0]["a"].params["head"][0]) == 1
    save_seeds(tmp_path, {"a": [one, two]}, scaler, {})
    assert len(load_seeds(tmp_path)[0]["a"]) == 2 and load_failures(tmp_path) == {}
    assert [folder.name for folder in (tmp_path / "seeds").iterdir()] == ["1"]
    (tmp_path / "seeds" / "1" / ARRAYS).unlink()
    with pytest.raises(StoreError, match="no trained model here; run micro-rm train"):
        load_seeds(tmp_path)


NAMES = st.text("abcXYZ_0.- é", min_size=1, max_size=5)
ARRAY = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3),
    elements=st.floats(allow_nan=True, width=32),
)
TREE = st.recursive(
    st.dictionaries(NAMES, ARRAY, min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, inner | ARRAY, min_size=1, max_size=3),
    max_leaves=8,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.long
@given(
    st.dictionaries(
        st.sampled_from(["micro", "pal", "vpl"]),
        st.builds(
            Trained,
            TREE,
            st.dictionaries(st.text(), JSON, max_size=3),
            st.dictionaries(NAMES, hnp.arrays(np.float32, st.integers(0, 4)), max_size=2),
        ),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_nested_arrays_settings_and_curves_come_back(models: dict[str, Trained]) -> None:
    """A method may keep what it likes: to the last bit, in its own precision and shape."""
    ones = np.ones(D, np.float32)
    with tempfile.TemporaryDirectory() as directory:
        save_models(Path(directory), models, Scaler(ones, ones, ones))
        loaded, _ = load_models(Path(directory))
    assert list(loaded) == list(models)
    for name, model in models.items():
        found = loaded[name]
        assert found.settings == model.settings
        assert found.curves.keys() == model.curves.keys()
        for left, right in ((found.params, model.params), (found.curves, model.curves)):
            assert jax.tree.structure(left) == jax.tree.structure(right)
            for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                assert one.tobytes() == other.tobytes()


def test_single_numbers_and_arrays_that_are_not_contiguous_come_back_as_they_look(
    scaler: Scaler, tmp_path: Path
) -> None:
    saved = {"number": np.array(2.5, np.float32), "turned": np.arange(6.0).reshape(2, 3).T}
    save_models(tmp_path, {"x": Trained(saved)}, scaler)
    found = load_models(tmp_path)[0]["x"].params
    assert found["number"].shape == ()
    jax.tree.map(np.testing.assert_array_equal, found, saved)


def test_saving_again_replaces_what_was_there(
    models: dict[str, Trained], scaler: Scaler, run: Path
) -> None:
    save_models(run, {"micro": models["micro"]}, scaler)
    assert list(load_models(run)[0]) == ["micro"]


@pytest.mark.parametrize("name", [INDEX, ARRAYS])
def test_a_missing_file_is_no_model_with_the_remedy(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(StoreError, match=f"{run}: no trained model here; run micro-rm train"):
        load_models(run)


@pytest.mark.parametrize(
    "leaf",
    ["micro_stage1/params/router/hidden/bias", "scaler/delta_scale_D"],
)
def test_a_missing_array_is_named_with_its_file_and_the_remedy(run: Path, leaf: str) -> None:
    edit_arrays(run, lambda arrays: arrays.pop(leaf))
    with pytest.raises(StoreError, match=rf"{ARRAYS}: damaged model .*{leaf}.*run micro-rm train"):
        load_models(run)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"micro/params/heads/kernel is \(4, 4\), expected \(4, 3\)"),
        (np.zeros((4, 3), np.float16), "was changed after it was written, run micro-rm train"),
    ],
    ids=["shape", "type"],
)
def test_an_array_of_another_shape_or_type_is_refused(
    run: Path, array: np.ndarray, message: str
) -> None:
    edit_arrays(run, lambda arrays: arrays.update({"micro/params/heads/kernel": array}))
    with pytest.raises(StoreError, match=rf"{run / ARRAYS}: .*{message}"):
        load_models(run)


@pytest.mark.parametrize(
    "text",
    ['{"format": 3, "meth', '{"format": 3}', '{"format": 3, "methods": []}', "[" * 100_000],
    ids=["cut short", "without methods", "methods of another type", "endless"],
)
def test_an_index_that_cannot_be_read_is_an_error_with_a_remedy(run: Path, text: str) -> None:
    (run / INDEX).write_text(text, "utf-8")
    with pytest.raises(StoreError, match=r"damaged model .*run micro-rm train again"):
        load_models(run)


def test_another_format_is_refused_with_both_numbers_and_the_remedy(run: Path) -> None:
    edit_index(run, lambda index: index.update(format=1))
    with pytest.raises(
        StoreError, match=rf"{INDEX}: format 1, expected {FORMAT_VERSION}; run micro-rm train again"
    ):
        load_models(run)


def test_the_index_says_what_every_array_is(run: Path) -> None:
    """For readers without this code: names and shapes of all arrays, settings as JSON."""
    index = json.loads((run / INDEX).read_text("utf-8"))
    arrays = load_file(run / ARRAYS)
    named = {
        f"{method}/params/{path}": tuple(shape)
        for method, item in index["methods"].items()
        for path, shape in item["params"].items()
    }
    assert named == {name: a.shape for name, a in arrays.items() if "/params/" in name}
    assert index["methods"]["micro"]["settings"]["spec"]["router"] == "linear"


@pytest.mark.parametrize("name", [ARRAYS, INDEX])
def test_no_changed_byte_is_taken_for_a_model(name: str, run: Path) -> None:
    """Space between the values of the index says nothing and may change."""
    content = (run / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=150):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        (run / name).write_bytes(changed)
        try:
            load_models(run)
        except StoreError as error:
            assert "run micro-rm train" in str(error)
        else:
            assert name == INDEX and json.loads(changed) == json.loads(content)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8 + b"{}", (100_000).to_bytes(8, "little") + b"[" * 100_000],
    ids=["empty", "a header of 2**64 - 1 bytes", "endless"],
)
def test_arrays_that_are_no_safetensors_are_refused(data: bytes, run: Path) -> None:
    (run / ARRAYS).write_bytes(data)
    with pytest.raises(StoreError, match=rf"{ARRAYS}: damaged model .*run micro-rm train"):
        load_models(run)


def test_names_are_never_paths(scaler: Scaler, tmp_path: Path) -> None:
    """Whatever an array is called, two files are written and two are read."""
    inner = {"..": {"..": {"evil": np.ones(2, np.float32)}}}
    save_models(tmp_path, {"../../evil": Trained(inner), "/etc/passwd": Trained(inner)}, scaler)
    found = load_models(tmp_path)[0]["../../evil"].params
    jax.tree.map(np.testing.assert_array_equal, found, inner)
    assert sorted(file.name for file in tmp_path.iterdir()) == [INDEX, ARRAYS]
