"""Appending vectors: whole shards or none, one writer, and nothing lost when a writer dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from micro_rm.cache import writer as writer_module
from micro_rm.cache.reader import FeatureStore, KeyIndex
from micro_rm.cache.schema import Identity, StoreError, file_checksum, read_manifest
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import StoreLock, StoreWriter, recover_store

OpenWriter = Callable[..., StoreWriter]
MakeStore = Callable[..., tuple[list[bytes], np.ndarray]]
MakeKeys = Callable[..., list[bytes]]
MakeVectors = Callable[..., np.ndarray]
MakeIdentity = Callable[..., Identity]


def shards(path: Path) -> list[Path]:
    return sorted((path / "shards").iterdir())


def unlist_last_shard(path: Path) -> None:
    """The state after a death between the rename of a shard and the new manifest."""
    manifest = path / "manifest.json"
    raw = json.loads(manifest.read_text())
    raw["shards"].pop()
    manifest.write_text(json.dumps(raw))


# Content


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_come_back_bit_by_bit(dtype: str, tmp_path: Path, make_store: MakeStore) -> None:
    keys, vectors = make_store(tmp_path, (5, 1, 7), dtype)
    store = FeatureStore(tmp_path)
    found = store.vectors(KeyIndex(store.keys()).rows(keys))
    assert found.dtype == vectors.dtype
    assert found.tobytes() == vectors.tobytes()
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


# Sealing


@pytest.mark.parametrize(
    ("shard_rows", "sizes"), [(1, [4] * 5), (4, [4] * 5), (5, [8, 8, 4]), (20, [20]), (99, [20])]
)
def test_a_shard_is_sealed_as_soon_as_it_is_full(
    shard_rows: int,
    sizes: list[int],
    tmp_path: Path,
    open_writer: OpenWriter,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    keys, vectors = make_keys(20), make_vectors(20)
    with open_writer(tmp_path, shard_rows=shard_rows) as writer:
        for start in range(0, 20, 4):
            writer.add(keys[start : start + 4], vectors[start : start + 4])
    assert [shard.rows for shard in read_manifest(tmp_path).shards] == sizes


def test_an_old_shard_is_sealed_even_when_it_is_not_full(
    tmp_path: Path, open_writer: OpenWriter, make_keys: MakeKeys, make_vectors: MakeVectors
) -> None:
    with open_writer(tmp_path, seal_seconds=1e-9) as writer:
        for start in (0, 2, 4):
            writer.add(make_keys(2, start), make_vectors(2, seed=start))
            assert read_manifest(tmp_path).rows == start + 2


def test_a_writer_without_vectors_leaves_an_empty_store(
    tmp_path: Path, open_writer: OpenWriter
) -> None:
    with open_writer(tmp_path) as writer:
        writer.seal()
    assert len(FeatureStore(tmp_path)) == 0
    assert shards(tmp_path) == []


def test_what_is_buffered_is_sealed_when_an_exception_passes(
    tmp_path: Path, open_writer: OpenWriter, make_keys: MakeKeys, make_vectors: MakeVectors
) -> None:
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path) as writer:
        writer.add(make_keys(3), make_vectors(3))
        raise KeyboardInterrupt
    assert len(FeatureStore(tmp_path)) == 3


def test_the_manifest_lists_a_shard_only_when_it_lies_there(
    tmp_path: Path,
    open_writer: OpenWriter,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever moment a process dies, the manifest promises nothing that is not there."""
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
    with open_writer(tmp_path) as writer:
        for start in (0, 2):
            writer.add(make_keys(2, start), make_vectors(2))
            writer.seal()
    assert seen == ["manifest.json", "000000.h5", "manifest.json", "000001.h5", "manifest.json"]


def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_after(
    tmp_path: Path,
    open_writer: OpenWriter,
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

    with open_writer(tmp_path / "store") as writer:
        writer.add(make_keys(2), make_vectors(2))
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", rename)
        writer.seal()
        monkeypatch.undo()
    assert calls == [
        "sync 000000.h5.tmp",
        "name 000000.h5",
        "sync shards",
        "sync manifest.json.tmp",
        "name manifest.json",
        "sync store",
    ]


# Refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_that_is_not_finite_is_refused(
    value: float,
    dtype: str,
    tmp_path: Path,
    open_writer: OpenWriter,
    make_identity: MakeIdentity,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    """G-F8: the good batches before it are kept."""
    vectors = make_vectors(3, dtype)
    vectors[2, 4] = value
    message = r"NaN or infinity; try backbone\.dtype=float32"
    with (
        pytest.raises(StoreError, match=message),
        open_writer(tmp_path, make_identity(dtype)) as writer,
    ):
        writer.add(make_keys(2, 10), make_vectors(2, dtype))
        writer.add(make_keys(3), vectors)
    assert len(FeatureStore(tmp_path)) == 2


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((2, 6), np.float32),
        np.zeros((3, 5), np.float32),
        np.zeros((3, 6), np.float64),
        np.zeros((3, 6), np.float16),
        np.zeros(18, np.float32),
    ],
)
def test_vectors_of_another_shape_or_type_are_refused(
    vectors: np.ndarray, tmp_path: Path, open_writer: OpenWriter, make_keys: MakeKeys
) -> None:
    with (
        pytest.raises(StoreError, match=r"expected vectors \(3, 6\) of float32, found"),
        open_writer(tmp_path) as writer,
    ):
        writer.add(make_keys(3), vectors)


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
    open_writer: OpenWriter,
    make_identity: MakeIdentity,
) -> None:
    make_store(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=rf"another identity \({words}.*choose another store\.dir"):
        open_writer(tmp_path, make_identity(**changes))
    assert (tmp_path / "manifest.json").read_bytes() == before
    with open_writer(tmp_path):
        pass


def test_a_store_of_another_width_is_refused(
    tmp_path: Path, make_store: MakeStore, open_writer: OpenWriter
) -> None:
    make_store(tmp_path)
    with pytest.raises(StoreError, match="vectors have width 6, the backbone gives 7"):
        open_writer(tmp_path, width=7)


def test_a_second_writer_is_refused_while_the_first_lives(
    tmp_path: Path, open_writer: OpenWriter
) -> None:
    with open_writer(tmp_path):
        with pytest.raises(StoreError, match="another process is writing here"):
            open_writer(tmp_path)
        with pytest.raises(StoreError, match="another process is writing here"):
            StoreLock(tmp_path)
    with StoreLock(tmp_path):
        pass


def test_a_lock_taken_before_planning_serves_the_writer_and_outlives_it(
    tmp_path: Path, open_writer: OpenWriter, make_keys: MakeKeys, make_vectors: MakeVectors
) -> None:
    with StoreLock(tmp_path) as lock:
        for start in (0, 5):
            with open_writer(tmp_path, lock=lock) as writer:
                writer.add(make_keys(2, start), make_vectors(2))
        with pytest.raises(StoreError, match="another process is writing here"):
            open_writer(tmp_path)
    assert len(FeatureStore(tmp_path)) == 4


def test_the_lock_holds_between_processes_and_dies_with_its_owner(
    tmp_path: Path, open_writer: OpenWriter
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from micro_rm.cache.writer import StoreLock;"
        "lock = StoreLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match="another process is writing here"):
            open_writer(tmp_path)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    with open_writer(tmp_path):
        pass


def test_a_writer_that_cannot_open_frees_the_lock(
    tmp_path: Path, make_store: MakeStore, open_writer: OpenWriter
) -> None:
    make_store(tmp_path)
    manifest = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_text("{")
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged manifest"):
            open_writer(tmp_path)
    (tmp_path / "manifest.json").write_bytes(manifest)
    with open_writer(tmp_path):
        pass


# Recovery


@pytest.mark.parametrize("by", ["recover", "open"])
def test_a_finished_shard_that_is_not_listed_is_adopted(
    by: str, tmp_path: Path, make_store: MakeStore, open_writer: OpenWriter
) -> None:
    keys, vectors = make_store(tmp_path, (5, 3, 2))
    before = read_manifest(tmp_path)
    contents = [path.read_bytes() for path in shards(tmp_path)]
    unlist_last_shard(tmp_path)
    assert len(FeatureStore(tmp_path)) == 8
    if by == "recover":
        recover_store(tmp_path)
    else:
        open_writer(tmp_path).__exit__(None, None, None)
    assert read_manifest(tmp_path) == before
    assert [path.read_bytes() for path in shards(tmp_path)] == contents
    store = FeatureStore(tmp_path)
    assert np.array_equal(
        store.vectors(KeyIndex(store.keys()).rows(keys)).view(np.uint32), vectors.view(np.uint32)
    )


def test_unfinished_files_are_removed(
    tmp_path: Path, make_store: MakeStore, open_writer: OpenWriter
) -> None:
    make_store(tmp_path)
    unfinished = [
        tmp_path / "manifest.json.tmp",
        tmp_path / "shards" / "000002.h5.tmp",
        tmp_path / "pairs" / "rows.h5.tmp",
        tmp_path / "quarantine" / "rows.jsonl.tmp",
    ]
    for recover in (
        lambda: recover_store(tmp_path),
        lambda: open_writer(tmp_path).__exit__(None, None, None),
    ):
        for path in unfinished:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")
        recover()
        assert not any(path.exists() for path in unfinished)
        assert verify_store(tmp_path).problems == []


def test_recovering_where_no_store_is_does_nothing(tmp_path: Path) -> None:
    recover_store(tmp_path)
    recover_store(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_stray_shard_of_another_store_is_refused_and_left_alone(
    tmp_path: Path, make_store: MakeStore, open_writer: OpenWriter, make_identity: MakeIdentity
) -> None:
    make_store(tmp_path / "a", (5,))
    make_store(tmp_path / "b", (5,), "bfloat16")
    stray = tmp_path / "a" / "shards" / "000007.h5"
    stray.write_bytes(shards(tmp_path / "b")[0].read_bytes())
    with pytest.raises(StoreError, match=r"000007\.h5: written under another identity"):
        open_writer(tmp_path / "a")
    with h5py.File(stray, "w") as file:
        file.create_dataset("vectors", data=np.zeros((2, 9), np.float32))
        file.create_dataset("keys", data=np.zeros((2, 16), np.uint8))
    with pytest.raises(StoreError, match=r"000007\.h5: not a shard of this store"):
        open_writer(tmp_path / "a")
    stray.write_bytes(b"no HDF5")
    with pytest.raises(StoreError, match=r"000007\.h5: not readable"):
        open_writer(tmp_path / "a")
    assert stray.exists()
    assert read_manifest(tmp_path / "a").rows == 5


def test_new_shards_never_take_an_old_name(
    tmp_path: Path,
    make_store: MakeStore,
    open_writer: OpenWriter,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
) -> None:
    make_store(tmp_path, (2, 2, 2))
    contents = {path.name: path.read_bytes() for path in shards(tmp_path)}
    with open_writer(tmp_path, job="another") as writer:
        writer.add(make_keys(2, 50), make_vectors(2))
    assert [path.name for path in shards(tmp_path)] == [f"{n:06d}.h5" for n in range(4)]
    for name, content in contents.items():
        assert (tmp_path / "shards" / name).read_bytes() == content
    assert [shard.job for shard in read_manifest(tmp_path).shards] == ["job"] * 3 + ["another"]


@pytest.mark.parametrize("call", range(1, 5))
def test_a_failing_disk_loses_nothing_that_was_sealed(
    call: int,
    tmp_path: Path,
    open_writer: OpenWriter,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shard and manifest are each committed by a sync and a rename; any of the four may fail."""
    keys, vectors = make_keys(8), make_vectors(8)
    calls = 0

    def failing(honest: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= call:
                raise OSError(errno.ENOSPC, "no space left on device")
            return honest(*arguments)

        return step

    with pytest.raises(OSError, match="no space left"), open_writer(tmp_path) as writer:
        writer.add(keys[:4], vectors[:4])
        writer.seal()
        writer.add(keys[4:], vectors[4:])
        monkeypatch.setattr(os, "fsync", failing(os.fsync))
        monkeypatch.setattr(os, "replace", failing(os.replace))
        writer.seal()
    monkeypatch.undo()
    recover_store(tmp_path)
    store = FeatureStore(tmp_path)
    kept = KeyIndex(store.keys()).rows(keys)
    assert (kept[:4] >= 0).all()
    present = kept >= 0
    assert len(store) == present.sum() in (4, 8)
    assert np.array_equal(
        store.vectors(kept[present]).view(np.uint32), vectors[present].view(np.uint32)
    )
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize("step", range(8))
def test_an_interrupt_anywhere_in_a_seal_loses_nothing_and_writes_nothing_twice(
    step: int,
    tmp_path: Path,
    open_writer: OpenWriter,
    make_keys: MakeKeys,
    make_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The seal on leaving the context goes on where the interrupted one stopped."""
    keys, vectors = make_keys(5), make_vectors(5)
    steps = iter(range(1000))

    def interrupted(honest: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any) -> Any:
            if next(steps) == step:
                raise KeyboardInterrupt
            result = honest(*arguments)
            if next(steps) == step:
                raise KeyboardInterrupt
            return result

        return around

    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path) as writer:
        writer.add(keys[:2], vectors[:2])
        writer.seal()
        writer.add(keys[2:], vectors[2:])
        monkeypatch.setattr(os, "replace", interrupted(os.replace))
        monkeypatch.setattr(writer_module, "file_checksum", interrupted(file_checksum))
        monkeypatch.setattr(writer_module, "list_shard", interrupted(writer_module.list_shard))
        writer.seal()
    monkeypatch.undo()
    assert [shard.rows for shard in read_manifest(tmp_path).shards] == [2, 3]
    store = FeatureStore(tmp_path)
    assert store.keys().tobytes() == b"".join(keys)
    assert store.vectors(range(5)).tobytes() == vectors.tobytes()
    assert verify_store(tmp_path).problems == []
