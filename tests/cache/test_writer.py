"""Sealing shards and listing them: whole ones or none, and nothing lost when a process dies."""

from __future__ import annotations

import errno
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
from micro_rm.cache.schema import StoreError, file_checksum
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import adopt_shards, next_shard_number, recover_store
from micro_rm.tests.cache.stores import (
    add_shard,
    make_identity,
    make_keys,
    make_store,
    make_vectors,
    open_store,
    seal_shard,
)


def shards(path: Path) -> list[Path]:
    return sorted((path / "shards").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_come_back_bit_by_bit(dtype: str, tmp_path: Path) -> None:
    keys, vectors = make_store(tmp_path, (5, 1, 7), dtype)
    store = FeatureStore(tmp_path)
    result = store.vectors(KeyIndex(store.keys()).rows(keys))
    assert result.dtype == vectors.dtype
    assert result.tobytes() == vectors.tobytes()
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shard_is_laid_out_for_memory_maps(dtype: str, tmp_path: Path) -> None:
    """Contiguous, unfiltered, 4 KiB aligned, in the 16-bit type the backbone computed."""
    make_store(tmp_path, (5, 300), dtype)
    for path in shards(tmp_path):
        with h5py.File(path, "r") as file:
            for name in ("vectors", "keys"):  # a time would make equal shards different files
                assert h5py.h5g.get_objinfo(file[name].id).mtime == 0
            vectors = file["vectors"]
            assert vectors.chunks is None
            assert vectors.compression is None and not vectors.shuffle and not vectors.fletcher32
            assert vectors.id.get_create_plist().get_nfilters() == 0
            assert vectors.id.get_offset() % 4096 == 0
            assert vectors.dtype == {"float32": np.float32, "bfloat16": np.uint16}[dtype]
            assert file.attrs["logical_dtype"] == dtype


def test_equal_content_makes_equal_files_which_the_manifest_lists(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_store(tmp_path / name)
    listed = read_manifest(tmp_path / "a").shards
    assert [(shard.name, shard.rows, shard.job) for shard in listed] == [
        ("000000.h5", 5, "job"),
        ("000001.h5", 3, "job"),
    ]
    for shard, path in zip(listed, shards(tmp_path / "a"), strict=True):
        assert (shard.bytes, shard.checksum) == (path.stat().st_size, file_checksum(path))
        assert path.read_bytes() == (tmp_path / "b" / "shards" / path.name).read_bytes()
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b")]
    assert manifests[0] == manifests[1]


def test_opening_again_gives_the_same_manifest(tmp_path: Path) -> None:
    make_store(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    assert open_store(tmp_path) == read_manifest(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_shard_sealed_twice_is_the_same_file(tmp_path: Path) -> None:
    """Two processes may write the same shard if a file system loses a lock."""
    first, second = (
        seal_shard(tmp_path, make_keys(3), make_vectors(3), number=4).read_bytes() for _ in "ab"
    )
    assert first == second and [path.name for path in shards(tmp_path)] == ["000004.h5"]


def test_shards_are_listed_by_number_but_one_that_comes_late_moves_no_row(tmp_path: Path) -> None:
    """Pair tables hold row indices, so the shards that are listed keep their order."""
    manifest = open_store(tmp_path)
    for numbers in ((2, 0), (1,)):
        for number in numbers:
            seal_shard(tmp_path, make_keys(2, 10 * number), make_vectors(2), number=number)
        manifest = adopt_shards(tmp_path, manifest)
    assert [shard.name for shard in manifest.shards] == ["000000.h5", "000002.h5", "000001.h5"]
    expected = [*make_keys(2), *make_keys(2, 20), *make_keys(2, 10)]
    assert FeatureStore(tmp_path).keys().tobytes() == b"".join(expected)
    assert verify_store(tmp_path).problems == []


def test_the_next_shard_number_is_above_that_of_any_sealed_shard(tmp_path: Path) -> None:
    assert next_shard_number(tmp_path) == 0
    (tmp_path / "shards").mkdir()
    for name in ("000003.h5", "000012.h5", "000015.h5.7.tmp", "notes.h5"):
        (tmp_path / "shards" / name).touch()
    assert next_shard_number(tmp_path) == 13


def test_new_shards_never_take_an_old_name(tmp_path: Path) -> None:
    make_store(tmp_path, (2, 2, 2))
    contents = {path.name: path.read_bytes() for path in shards(tmp_path)}
    add_shard(tmp_path, make_keys(2, 50), make_vectors(2), job="another")
    assert [path.name for path in shards(tmp_path)] == [f"{n:06d}.h5" for n in range(4)]
    for name, content in contents.items():
        assert (tmp_path / "shards" / name).read_bytes() == content
    assert [shard.job for shard in read_manifest(tmp_path).shards] == ["job"] * 3 + ["another"]


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("bfloat16", -np.inf)])
def test_a_vector_that_is_not_finite_is_refused(dtype: str, value: float, tmp_path: Path) -> None:
    """And no file of it is left."""
    vectors = make_vectors(3, dtype)
    vectors[2, 4] = value
    message = r"NaN or infinity for 1 of 3 sequences; try backbone\.dtype=float32"
    with pytest.raises(StoreError, match=message):
        seal_shard(tmp_path, make_keys(3), vectors, make_identity(dtype))
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize(
    "vectors", [np.zeros((2, 6), np.float32), np.zeros((3, 6), np.uint16), np.zeros(18, np.float32)]
)
def test_vectors_of_another_number_or_type_are_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected 3 vectors of float32, found \("):
        seal_shard(tmp_path, make_keys(3), vectors)


def test_a_store_of_another_identity_or_width_is_refused_naming_the_fields(tmp_path: Path) -> None:
    make_store(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    words = r"weights: the store has 'w+', this run has 'x'; max_length: the store has 4096, this "
    message = rf"another identity \({words}.*choose another store\.dir"
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path, make_identity(max_length=8, weights="x"))
    with pytest.raises(StoreError, match="vectors have width 6, the backbone gives 7"):
        open_store(tmp_path, width=7)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_damaged_manifest_is_refused_and_not_replaced(tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    for attempt in (lambda: open_store(tmp_path), lambda: recover_store(tmp_path)):
        with pytest.raises(StoreError, match="damaged manifest"):
            attempt()
    assert (tmp_path / "manifest.json").read_text() == "{"


def test_a_finished_shard_that_is_not_listed_is_adopted(tmp_path: Path) -> None:
    keys, vectors = make_store(tmp_path, (5, 3, 2))
    before = read_manifest(tmp_path)
    contents = [path.read_bytes() for path in shards(tmp_path)]
    # The state after a death between the rename of a shard and the new manifest.
    write_manifest(tmp_path, replace(before, shards=before.shards[:-1], next_shard=0))
    assert len(FeatureStore(tmp_path)) == 8
    recover_store(tmp_path)
    assert read_manifest(tmp_path) == before
    assert [path.read_bytes() for path in shards(tmp_path)] == contents
    store = FeatureStore(tmp_path)
    result = store.vectors(KeyIndex(store.keys()).rows(keys))
    assert result.tobytes() == vectors.tobytes()


def test_unfinished_files_are_removed(tmp_path: Path) -> None:
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


def test_a_stray_shard_of_another_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    make_store(tmp_path, (5,))
    stray = seal_shard(
        tmp_path, make_keys(5), make_vectors(5, "bfloat16"), make_identity("bfloat16"), number=7
    )

    def require_refused(words: str) -> None:
        with pytest.raises(StoreError, match=rf"000007\.h5: {words}"):
            recover_store(tmp_path)

    require_refused("written under another identity")
    for width, words in ((9, "not a shard of this store"), (6, r"not a shard \(")):
        with h5py.File(stray, "w") as file:
            file["vectors"] = np.zeros((2, width), np.float32)
            file["keys"] = np.zeros((2, 16), np.uint8)
        require_refused(words)
    stray.write_bytes(b"no HDF5")
    require_refused("not readable")
    assert stray.exists() and read_manifest(tmp_path).rows == 5


@pytest.mark.parametrize(
    ("done", "error"),
    [(False, OSError(errno.ENOSPC, "no space left")), (True, KeyboardInterrupt())],
)
@pytest.mark.parametrize("call", range(1, 7))
def test_a_failure_at_any_step_loses_nothing_that_was_sealed(
    call: int, done: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
