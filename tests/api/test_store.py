from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

import micro_rm as mrm
from micro_rm.cache.pairs import read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.tests.api.conftest import embed_files


def test_the_package_embed_is_a_function_too() -> None:
    import micro_rm.embed.trees

    assert callable(mrm.embed) and micro_rm.embed.trees.lay_out
    assert next(iter(inspect.signature(mrm.embed).parameters)) == "data"


def test_embedding_again_adds_no_vector(
    store: mrm.Store, files: Path, backbone_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.dir.glob("shards/*.h5")}
    again = embed_files(files, backbone_dir, store.dir)
    assert {path: path.stat().st_mtime_ns for path in store.dir.glob("shards/*.h5")} == before
    assert before and len(again) == len(store) and capfd.readouterr() == ("", "")
    assert repr(store).startswith(f"Store({str(store.dir)!r}): {len(store)} vectors of 32")
    assert "tables   preferences" in repr(store)


def test_arrays_are_the_vectors_of_the_table(store: mrm.Store, table: mrm.Table) -> None:
    assert table.views == list(
        dict.fromkeys(key[:-7] for key in table.pairs.rows if "chosen" in key)
    )
    assert "context" not in table.views and "ctx" in table.views
    arrays = table.arrays(split="test", view="ctx")
    pairs, reader = read_pairs(store.dir, "preferences"), FeatureStore(store.dir)
    test = np.flatnonzero(np.asarray(pairs.text["split"]) == "test")
    np.testing.assert_array_equal(arrays.row_N, test)
    for array, key in (
        (arrays.chosen_NxD, "ctx/chosen"),
        (arrays.rejected_NxD, "ctx/rejected"),
        (arrays.prompt_NxD, "ctx/prompt"),
    ):
        expected = np.stack([reader.vectors(pairs.rows[key][[row]])[0] for row in test])
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    assert arrays.X.shape == (test.size, 3, 32)
    assert f"  chosen_NxD ({test.size}, 32) float32" in repr(arrays).splitlines()
    assert list(arrays.attribute_N[:2]) == ["short", "long"] and set(arrays.user_N) == {""}


def test_all_pairs_are_those_of_both_splits(table: mrm.Table) -> None:
    rows = [table.arrays(split, "ctx", missing="skip").row_N for split in ("train", "test", "all")]
    assert sorted([*rows[0], *rows[1]]) == list(rows[2]) == list(range(len(table)))
    assert repr(table).splitlines()[0] == "Table('preferences'): 120 pairs, 80 train, 40 test"
    assert table.attributes == ["short", "long"] and table.users == []


def test_what_is_missing_is_named(store: mrm.Store, table: mrm.Table, tmp_path: Path) -> None:
    with pytest.raises(mrm.UserError, match="no pair table 'other'"):
        store.table("other")
    with pytest.raises(mrm.UserError, match="expected train, test or all, found 'validation'"):
        table.arrays("validation")
    with pytest.raises(mrm.UserError, match=r"40 of 40 pairs .test. of 'preferences' were not"):
        table.arrays("test", "plain")
    with pytest.raises(mrm.UserError, match="has no context/prompt vectors; it has plain/prompt"):
        table.arrays("test", "ctx", "context")
    with pytest.raises(mrm.UserError):
        mrm.Store(tmp_path)
    with pytest.raises(mrm.UserError, match=r"unknown key .train\.eopchs."):
        mrm.train(table, dir=tmp_path, settings={"train.eopchs": 3})
    with pytest.raises(mrm.UserError, match=r"run\.seed is set by an argument of the call"):
        mrm.train(table, dir=tmp_path, settings={"run.seed": 3})
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        mrm.embedd  # noqa: B018


def test_a_data_frame_has_a_row_per_pair(table: mrm.Table) -> None:
    pytest.importorskip("pandas")
    frame = table.frame()
    assert len(frame) == len(table) and {"attribute", "context", "split"} <= set(frame.columns)
