"""Vectors are read by key or by global row."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.reader import FeatureStore, KeyIndex, open_vectors
from micro_rm.cache.schema import KEY_DTYPE, StoreError
from micro_rm.tests.cache.stores import (
    add_shard,
    make_identity,
    make_keys,
    make_store,
    make_vectors,
    open_store,
)

# Zero bytes at the end are what NumPy strips from its byte strings.
KEYS = st.binary(min_size=16, max_size=16) | st.binary(max_size=3).map(lambda b: b.ljust(16, b"\0"))


@example([], [b"a" * 16, bytes(16)], Random(0))
@example([b"ab" + bytes(14), bytes(16)], [b"ab\1" + bytes(13), b"abc" + bytes(13)], Random(0))
@settings(max_examples=200, deadline=None)
@given(st.lists(KEYS, unique=True, max_size=40), st.lists(KEYS, max_size=20), st.randoms())
def test_the_key_index_finds_every_key_and_no_other(
    stored: list[bytes], strangers: list[bytes], random: Random
) -> None:
    row_of = {key: row for row, key in enumerate(stored)}
    asked = [*stored, *stored[:3], *strangers]
    random.shuffle(asked)
    rows = KeyIndex(np.array(stored, KEY_DTYPE)).rows(asked)
    assert rows.shape == (len(asked),)
    assert rows.tolist() == [row_of.get(key, -1) for key in asked]


def test_global_rows_run_through_the_shards_in_order(tmp_path: Path) -> None:
    keys, vectors = make_store(tmp_path, (3, 1, 4))
    store = FeatureStore(tmp_path)
    assert (len(store), store.width) == (8, 6)
    assert store.keys().tobytes() == b"".join(keys)
    assert store.vectors(range(8)).tobytes() == vectors.tobytes()


def test_an_empty_store_answers_an_empty_question(tmp_path: Path) -> None:
    open_store(tmp_path)
    store = FeatureStore(tmp_path)
    for empty in (store.vectors([]), store.gather([]), store.read(0, 0)):
        assert empty.shape == (0, 6)
    assert store.keys().dtype == KEY_DTYPE and store.keys().size == 0
    with pytest.raises(StoreError, match="the store has 0"):
        store.vectors([0])


def test_vectors_are_read_only(tmp_path: Path) -> None:
    make_store(tmp_path)
    manifest = read_manifest(tmp_path)
    shard = manifest.shards[0]
    mapped = open_vectors(tmp_path / "shards" / shard.name, manifest, shard)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1


def test_a_store_opened_before_a_new_shard_stays_as_it_was(tmp_path: Path) -> None:
    _, vectors = make_store(tmp_path, (4,))
    store = FeatureStore(tmp_path)
    add_shard(tmp_path, make_keys(3, 50), make_vectors(3, seed=9))
    assert len(store) == 4
    assert store.vectors(range(4)).tobytes() == vectors.tobytes()
    assert len(FeatureStore(tmp_path)) == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "missing, though the manifest lists it"),
        (b"hello", "not readable as HDF5"),
        ({"rows": 4}, r"expected vectors \(5, 6\) of float32, found \(4, 6\)"),
        ({"dtype": "bfloat16"}, r"expected vectors \(5, 6\) of float32, found .* of bfloat16"),
        ({"keys": 4}, "4 keys for 5 vectors"),
        ({"weights": "other"}, "another store .weights: the store has 'w+', this run has 'other'"),
        ({"without": "vectors"}, "no data set 'vectors'"),
        ({"without": "keys"}, "no data set 'keys'"),
    ],
)
def test_a_shard_that_is_not_what_the_manifest_says_is_refused(
    changes: Any, words: str, tmp_path: Path
) -> None:
    make_store(tmp_path)
    path = tmp_path / "shards" / "000000.h5"
    path.unlink()
    if isinstance(changes, bytes):
        path.write_bytes(changes)
    elif changes:
        identity = asdict(make_identity()) | {"weights": changes.get("weights", "w" * 64)}
        kind = np.uint16 if "dtype" in changes else np.float32
        with h5py.File(path, "w") as file:
            file["vectors"] = np.zeros((changes.get("rows", 5), 6), kind)
            file["keys"] = np.zeros((changes.get("keys", 5), 16), np.uint8)
            if "without" in changes:
                del file[changes["without"]]
            file.attrs["logical_dtype"] = changes.get("dtype", "float32")
            file.attrs["identity"] = json.dumps(identity)
            file.attrs["job"] = "job"
    with pytest.raises(StoreError, match=words):
        FeatureStore(tmp_path)
