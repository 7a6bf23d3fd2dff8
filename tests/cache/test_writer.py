"""Sealing shards and listing them: whole ones or none, and nothing lost when a process dies."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from micro_rm.cache.manifest import read_manifest, write_manifest
from micro_rm.cache.reader import FeatureStore, KeyIndex
from micro_rm.cache.schema import KEY_DTYPE, Identity, Manifest, StoreError, file_checksum
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import (
    adopt_shards,
    next_shard_number,
    recover_store,
    shard_path,
    write_shard,
)

AddShard = Callable[..., Manifest]
OpenStore = Callable[..., Manifest]
SealShard = Callable[..., Path]
MakeStore = Callable[..., tuple[list[bytes], np.ndarray]]
MakeKeys = Callable[..., list[bytes]]
MakeVectors = Callable[..., np.ndarray]
MakeIdentity = Callable[..., Identity]


def shards(path: Path) -> list[Path]:
    return sorted((path / "shards").iterdir())


def unlist_last_shard(path: Path) -> None:
    """The state after a death between the rename of a shard and the new manifest."""
    manifest = read_manifest(path)
    write_manifest(path, replace(manifest, shards=manifest.shards[:-1], next_shard=0))


# Content


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_come_back_bit_by_bit(dtype: str, tmp_path: Path, make_store: MakeStore) -> None:
    keys, vectors = make_store(tmp_path, (5, 1, 7), dtype)
    store = FeatureStore(tmp_path)
    result = store.vectors(KeyIndex(store.keys()).rows(keys))
    assert result.dtype == vectors.dtype
    assert result.tobytes() == vectors.tobytes()
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shard_is_laid_out_for_memory_maps(
    dtype: str, tmp_path: Path, make_store: MakeStore
) -> None:
    """Contiguous, unfiltered, 4 KiB aligned, in the 16-bit type the backbone computed."""
    make_store(tmp_path, (5, 300), dtype)
    for path in shards(tmp_path):
        with h5py.File(path, "r") as file:
            vectors = file["vectors"]
            assert isinstance(vectors, h5py.Dataset)
            assert vectors.chunks is None
            assert vectors.compression is None and not vectors.shuffle and not vectors.fletcher32
            assert vectors.id.get_create_plist().get_nfilters() == 0
            assert vectors.id.get_offset() % 4096 == 0
            assert vectors.dtype == {"float32": np.float32, "bfloat16": np.uint16}[dtype]
            assert file.attrs["logical_dtype"] == dtype


def test_the_manifest_lists_rows_bytes_checksum_and_job(
    tmp_path: Path, make_store: MakeStore
) -> None:
    make_store(tmp_path, (5, 3))
    listed = read_manifest(tmp_path).shards
    assert [(shard.name, shard.rows, shard.job) for shard in listed] == [
        ("000000.h5", 5, "job"),
        ("000001.h5", 3, "job"),
    ]
    for shard, path in zip(listed, shards(tmp_path), strict=True):
        assert shard.bytes == path.stat().st_size
        assert shard.checksum == file_checksum(path)


def test_equal_content_makes_equal_files(tmp_path: Path, make_store: MakeStore) -> None:
    for name in ("a", "b"):
        make_store(tmp_path / name)
    assert [path.read_bytes() for path in shards(tmp_path / "a")] == [
        path.read_bytes() for path in shards(tmp_path / "b")
    ]
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b")]
    assert manifests[0] == manifests[1]


def test_a_shard_holds_no_time(tmp_path: Path, make_store: MakeStore) -> None:
    """By default HDF5 stores the time of creation, and equal shards would be different files."""
    make_store(tmp_path, (5,))
    with h5py.File(shards(tmp_path)[0], "r") as file:
        for name in ("vectors", "keys"):
            assert h5py.h5g.get_objinfo(file[name].id).mtime == 0


# Sealing and listing


def test_a_new_store_is_empty(tmp_path: Path, open_store: OpenStore) -> None:
    open_store(tmp_path)
    assert len(FeatureStore(tmp_path)) == 0
    assert shards(tmp_path) == []


def test_opening_again_gives_the_same_manifest(
    tmp_path: Path, make_store: MakeStore, open_store: OpenStore
) -> None:
    make_store(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    assert open_store(tmp_path) == read_manifest(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_the_manifest_lists_a_shard_only_once_it_exists(
    tmp_path: Path,
    add_shard: AddShard,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So whenever a process dies, every shard that the manifest lists exists."""
    honest = os.replace
    seen: list[str] = []

    def replace(source: Any, target: Any) -> None:
        target = Path(target)
        if target.name == "manifest.json":
            for shard in json.loads(Path(source).read_text())["shards"]:
                path = target.parent / "shards" / shard["name"]
                assert file_checksum(path) == shard["checksum"]
        seen.append(target.name)
        honest(source, target)

    monkeypatch.setattr(os, "replace", replace)
    for start in (0, 2):
        add_shard(tmp_path, make_keys(2, start), make_vectors(2))
    assert seen == ["manifest.json", "000000.h5", "manifest.json", "000001.h5", "manifest.json"]


def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_after(
    tmp_path: Path,
    open_store: OpenStore,
    seal_shard: SealShard,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        sync(descriptor)

    def rename(source: Any, target: Any) -> None:
        calls.append(f"name {Path(target).name}")
        replace(source, target)

    manifest = open_store(tmp_path / "store")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    seal_shard(tmp_path / "store", make_keys(2), make_vectors(2))
    adopt_shards(tmp_path / "store", manifest)
    monkeypatch.undo()
    assert calls == [
        f"sync 000000.h5.{os.getpid()}.tmp",
        "name 000000.h5",
        "sync shards",
        "sync manifest.json.tmp",
        "name manifest.json",
        "sync store",
    ]


def test_a_shard_sealed_twice_is_the_same_file(
    tmp_path: Path, make_identity: MakeIdentity, make_keys: MakeKeys, make_vectors: MakeVectors
) -> None:
    """Two processes may write the same shard if a file system loses a lock."""
    keys = np.array(make_keys(3), KEY_DTYPE)
    path = shard_path(tmp_path, 4)
    contents = []
    for _ in range(2):
        write_shard(path, make_identity(), "job", keys, make_vectors(3))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert shards(tmp_path) == [path]


def test_shards_are_listed_by_number_whoever_finished_first(
    tmp_path: Path,
    open_store: OpenStore,
    make_identity: MakeIdentity,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    manifest = open_store(tmp_path)
    for number in (2, 0, 1):
        keys = np.array(make_keys(2, 10 * number), KEY_DTYPE)
        write_shard(shard_path(tmp_path, number), make_identity(), "job", keys, make_vectors(2))
    listed = adopt_shards(tmp_path, manifest).shards
    assert [shard.name for shard in listed] == ["000000.h5", "000001.h5", "000002.h5"]


def test_a_shard_that_is_listed_late_moves_no_row(
    tmp_path: Path,
    open_store: OpenStore,
    make_identity: MakeIdentity,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    """Pair tables hold row indices, so the shards that are listed keep their order."""
    manifest = open_store(tmp_path)
    for numbers in ((0, 2), (1,)):
        for number in numbers:
            keys = np.array(make_keys(2, 10 * number), KEY_DTYPE)
            write_shard(shard_path(tmp_path, number), make_identity(), "job", keys, make_vectors(2))
        manifest = adopt_shards(tmp_path, manifest)
    assert [shard.name for shard in manifest.shards] == ["000000.h5", "000002.h5", "000001.h5"]
    expected = [*make_keys(2), *make_keys(2, 20), *make_keys(2, 10)]
    assert FeatureStore(tmp_path).keys().tobytes() == b"".join(expected)
    assert verify_store(tmp_path).problems == []


def test_new_shards_never_take_an_old_name(
    tmp_path: Path,
    make_store: MakeStore,
    add_shard: AddShard,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    make_store(tmp_path, (2, 2, 2))
    contents = {path.name: path.read_bytes() for path in shards(tmp_path)}
    add_shard(tmp_path, make_keys(2, 50), make_vectors(2), job="another")
    assert [path.name for path in shards(tmp_path)] == [f"{n:06d}.h5" for n in range(4)]
    for name, content in contents.items():
        assert (tmp_path / "shards" / name).read_bytes() == content
    assert [shard.job for shard in read_manifest(tmp_path).shards] == ["job"] * 3 + ["another"]


def test_the_next_shard_number_is_above_the_last_one_even_over_a_gap(
    tmp_path: Path, make_store: MakeStore
) -> None:
    assert next_shard_number(tmp_path / "nowhere") == 0
    make_store(tmp_path, (2, 2, 2))
    shard_path(tmp_path, 1).unlink()
    assert next_shard_number(tmp_path) == 3


# Refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_that_is_not_finite_is_refused(
    value: float,
    dtype: str,
    tmp_path: Path,
    seal_shard: SealShard,
    make_identity: MakeIdentity,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    """And no file of it is left."""
    vectors = make_vectors(3, dtype)
    vectors[2, 4] = value
    message = r"NaN or infinity for 1 of 3 sequences; try backbone\.dtype=float32"
    with pytest.raises(StoreError, match=message):
        seal_shard(tmp_path, make_keys(3), vectors, make_identity(dtype))
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((2, 6), np.float32),
        np.zeros((4, 6), np.float32),
        np.zeros((3, 6), np.float64),
        np.zeros((3, 6), np.float16),
        np.zeros((3, 6), np.uint16),
        np.zeros(18, np.float32),
    ],
)
def test_vectors_of_another_number_or_type_are_refused(
    vectors: np.ndarray, tmp_path: Path, seal_shard: SealShard, make_keys: MakeKeys
) -> None:
    with pytest.raises(StoreError, match=r"expected 3 vectors of float32, found \("):
        seal_shard(tmp_path, make_keys(3), vectors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "other"}, "weights: the store has 'w+', this run has 'other'"),
        ({"max_length": 8}, "max_length: the store has 4096, this run has 8"),
        ({"template": "x", "bos": "one"}, r"template: .*; bos: "),
    ],
)
def test_a_store_of_another_identity_is_refused_naming_the_field(
    changes: dict[str, Any],
    words: str,
    tmp_path: Path,
    make_store: MakeStore,
    open_store: OpenStore,
    make_identity: MakeIdentity,
) -> None:
    make_store(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=rf"another identity \({words}.*choose another store\.dir"):
        open_store(tmp_path, make_identity(**changes))
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_store_of_another_width_is_refused(
    tmp_path: Path, make_store: MakeStore, open_store: OpenStore
) -> None:
    make_store(tmp_path)
    with pytest.raises(StoreError, match="vectors have width 6, the backbone gives 7"):
        open_store(tmp_path, width=7)


def test_a_damaged_manifest_is_refused_and_not_replaced(
    tmp_path: Path, make_store: MakeStore, open_store: OpenStore
) -> None:
    make_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    for attempt in (lambda: open_store(tmp_path), lambda: recover_store(tmp_path)):
        with pytest.raises(StoreError, match="damaged manifest"):
            attempt()
    assert (tmp_path / "manifest.json").read_text() == "{"


# Recovery


def test_a_finished_shard_that_is_not_listed_is_adopted(
    tmp_path: Path, make_store: MakeStore
) -> None:
    keys, vectors = make_store(tmp_path, (5, 3, 2))
    before = read_manifest(tmp_path)
    contents = [path.read_bytes() for path in shards(tmp_path)]
    unlist_last_shard(tmp_path)
    assert len(FeatureStore(tmp_path)) == 8
    recover_store(tmp_path)
    assert read_manifest(tmp_path) == before
    assert [path.read_bytes() for path in shards(tmp_path)] == contents
    store = FeatureStore(tmp_path)
    result = store.vectors(KeyIndex(store.keys()).rows(keys))
    assert result.tobytes() == vectors.tobytes()


def test_unfinished_files_are_removed(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    unfinished = [
        tmp_path / "manifest.json.tmp",
        tmp_path / "shards" / "000002.h5.4711.tmp",
        tmp_path / "pairs" / "rows.h5.tmp",
        tmp_path / "quarantine" / "rows.jsonl.tmp",
    ]
    for path in unfinished:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    recover_store(tmp_path)
    assert not any(path.exists() for path in unfinished)
    assert verify_store(tmp_path).problems == []


def test_recovering_where_no_store_is_does_nothing(tmp_path: Path) -> None:
    recover_store(tmp_path)
    recover_store(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_stray_shard_of_another_store_is_refused_and_left_alone(
    tmp_path: Path, make_store: MakeStore
) -> None:
    make_store(tmp_path / "a", (5,))
    make_store(tmp_path / "b", (5,), "bfloat16")
    stray = tmp_path / "a" / "shards" / "000007.h5"
    stray.write_bytes(shards(tmp_path / "b")[0].read_bytes())
    with pytest.raises(StoreError, match=r"000007\.h5: written under another identity"):
        recover_store(tmp_path / "a")
    with h5py.File(stray, "w") as file:
        file.create_dataset("vectors", data=np.zeros((2, 9), np.float32))
        file.create_dataset("keys", data=np.zeros((2, 16), np.uint8))
    with pytest.raises(StoreError, match=r"000007\.h5: not a shard of this store"):
        recover_store(tmp_path / "a")
    with h5py.File(stray, "w") as file:
        file.create_dataset(
            "vectors", data=np.zeros((2, read_manifest(tmp_path / "a").width), np.float32)
        )
        file.create_dataset("keys", data=np.zeros((2, 16), np.uint8))
    with pytest.raises(StoreError, match=r"000007\.h5: not a shard \("):
        recover_store(tmp_path / "a")
    stray.write_bytes(b"no HDF5")
    with pytest.raises(StoreError, match=r"000007\.h5: not readable"):
        recover_store(tmp_path / "a")
    assert stray.exists()
    assert read_manifest(tmp_path / "a").rows == 5


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_failure_at_any_step_loses_nothing_that_was_sealed(
    call: int,
    done: bool,
    error: BaseException,
    tmp_path: Path,
    add_shard: AddShard,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shard and manifest each take two syncs and a rename: before or after any of the six."""
    keys, vectors = make_keys(8), make_vectors(8)
    add_shard(tmp_path, keys[:4], vectors[:4])
    calls = 0

    def failing(honest: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < call or done:
                honest(*arguments)
            if calls >= call:
                raise error

        return step

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    with pytest.raises(type(error)):
        add_shard(tmp_path, keys[4:], vectors[4:])
    monkeypatch.undo()
    recover_store(tmp_path)
    store = FeatureStore(tmp_path)
    kept = KeyIndex(store.keys()).rows(keys)
    present = kept >= 0
    assert present[:4].all()
    assert present[4:].all() == (call > 2 or (call == 2 and done))
    assert len(store) == present.sum() in (4, 8)
    assert store.vectors(kept[present]).tobytes() == vectors[present].tobytes()
    assert verify_store(tmp_path).problems == []


def test_the_next_shard_number_is_above_that_of_any_sealed_shard(tmp_path: Path) -> None:
    assert next_shard_number(tmp_path) == 0
    (tmp_path / "shards").mkdir()
    for name in ("000003.h5", "000012.h5", "000015.h5.7.tmp", "notes.h5"):
        (tmp_path / "shards" / name).touch()
    assert next_shard_number(tmp_path) == 13
