"""Vectors are read by key or by global row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.reader import FeatureStore, KeyIndex, open_vectors
from micro_rm.cache.schema import KEY_DTYPE, Manifest, StoreError

MakeStore = Callable[..., tuple[list[bytes], np.ndarray]]
# Zero bytes at the end are what NumPy strips from its byte strings.
KEYS = st.binary(min_size=16, max_size=16) | st.binary(max_size=3).map(lambda b: b.ljust(16, b"\0"))


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


def test_keys_that_differ_in_trailing_zero_bytes_are_different() -> None:
    keys = [b"ab" + bytes(14), b"ab\0c" + bytes(12), bytes(15) + b"\1", bytes(16)]
    index = KeyIndex(np.array(keys, KEY_DTYPE))
    assert index.rows(keys).tolist() == [0, 1, 2, 3]
    assert index.rows([b"ab\1" + bytes(13), b"abc" + bytes(13)]).tolist() == [-1, -1]


def test_an_empty_index_finds_nothing() -> None:
    index = KeyIndex(np.empty(0, KEY_DTYPE))
    assert index.rows([b"a" * 16, bytes(16)]).tolist() == [-1, -1]
    assert KeyIndex(np.array([b"a" * 16], KEY_DTYPE)).rows([]).tolist() == []


def test_global_rows_run_through_the_shards_in_order(tmp_path: Path, make_store: MakeStore) -> None:
    keys, vectors = make_store(tmp_path, (3, 1, 4))
    store = FeatureStore(tmp_path)
    assert (len(store), store.width) == (8, 6)
    assert store.keys().tobytes() == b"".join(keys)
    assert store.vectors(range(8)).tobytes() == vectors.tobytes()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 7), max_size=20))
def test_rows_come_in_the_order_asked_for_with_repeats(
    opened: tuple[FeatureStore, np.ndarray], rows: list[int]
) -> None:
    store, vectors = opened
    assert store.vectors(rows).tobytes() == vectors[np.array(rows, np.int64)].tobytes()


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, make_store: MakeStore
) -> tuple[FeatureStore, np.ndarray]:
    path = tmp_path_factory.mktemp("store")
    _, vectors = make_store(path, (3, 1, 4))
    return FeatureStore(path), vectors


@pytest.mark.parametrize("rows", [[8], [-1], [0, 100], [3, -5, 2]])
def test_rows_outside_the_store_are_refused(
    rows: list[int], opened: tuple[FeatureStore, np.ndarray]
) -> None:
    with pytest.raises(StoreError, match=r"asked for rows .*, the store has 8"):
        opened[0].vectors(rows)


def test_an_empty_store_answers_an_empty_question(
    tmp_path: Path, open_store: Callable[..., Manifest]
) -> None:
    open_store(tmp_path)
    store = FeatureStore(tmp_path)
    assert store.vectors([]).shape == (0, 6)
    assert store.keys().dtype == KEY_DTYPE and store.keys().size == 0
    with pytest.raises(StoreError, match="the store has 0"):
        store.vectors([0])


def test_vectors_are_read_only(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    manifest = read_manifest(tmp_path)
    shard = manifest.shards[0]
    mapped = open_vectors(tmp_path / "shards" / shard.name, manifest, shard)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1


def test_a_store_opened_before_a_new_shard_stays_as_it_was(
    tmp_path: Path,
    make_store: MakeStore,
    add_shard: Callable[..., Manifest],
    make_keys: Callable[..., list[bytes]],
    make_vectors: Callable[..., np.ndarray],
) -> None:
    _, vectors = make_store(tmp_path, (4,))
    store = FeatureStore(tmp_path)
    add_shard(tmp_path, make_keys(3, 50), make_vectors(3, seed=9))
    assert len(store) == 4
    assert store.vectors(range(4)).tobytes() == vectors.tobytes()
    assert len(FeatureStore(tmp_path)) == 7


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "missing, though the manifest lists it"),
        ("truncated", "not readable as HDF5"),
        ("not HDF5", "not readable as HDF5"),
        ("another shape", r"expected vectors \(5, 6\) of float32, found \(4, 6\)"),
        ("another type", r"expected vectors \(5, 6\) of float32, found \(5, 6\) of bfloat16"),
        ("fewer keys", "4 keys for 5 vectors"),
        ("another store", "of another store .weights: the store has 'w+', this run has 'other'"),
        ("no vectors", "no data set 'vectors'"),
        ("no keys", "no data set 'keys'"),
    ],
)
def test_a_shard_that_is_not_what_the_manifest_says_is_refused(
    what: str, words: str, tmp_path: Path, make_store: MakeStore
) -> None:
    make_store(tmp_path)
    path = tmp_path / "shards" / "000000.h5"
    if what == "missing":
        path.unlink()
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "not HDF5":
        path.write_bytes(b"hello")
    else:
        rows = 4 if what == "another shape" else 5
        with h5py.File(path, "w") as file:
            if what != "no vectors":
                kind = np.uint16 if what == "another type" else np.float32
                file.create_dataset("vectors", data=np.zeros((rows, 6), kind))
            if what != "no keys":
                count = 4 if what == "fewer keys" else rows
                file.create_dataset("keys", data=np.zeros((count, 16), np.uint8))
            file.attrs["logical_dtype"] = "bfloat16" if what == "another type" else "float32"
            identity = read_manifest(tmp_path).identity
            if what == "another store":
                identity = replace(identity, weights="other")
            file.attrs["identity"] = json.dumps(asdict(identity))
            file.attrs["job"] = "job"
    with pytest.raises(StoreError, match=words):
        FeatureStore(tmp_path)


def test_a_manifest_of_another_type_than_its_shards_is_refused(
    tmp_path: Path, make_store: MakeStore, edit_manifest: Callable[..., None]
) -> None:
    make_store(tmp_path, (5,), "bfloat16")
    edit_manifest(tmp_path, lambda raw: raw["identity"].update(dtype="float32"))
    with pytest.raises(StoreError, match=r"expected vectors \(5, 6\) of float32.* of bfloat16"):
        FeatureStore(tmp_path)
