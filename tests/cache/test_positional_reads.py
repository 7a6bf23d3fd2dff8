"""Many vectors at once, by `read`, `gather` and large `vectors`, whatever the slices and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache import positional_reads, reader
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, StoreError
from micro_rm.cache.writer import adopt_shards, open_manifest, shard_path, write_shard
from micro_rm.tests.cache.stores import make_identity, make_keys, make_store

SIZES = (3, 1, 40, 7)
TOTAL = sum(SIZES)
Opened = tuple[FeatureStore, np.ndarray]
# Rows one by one, and stretches of adjacent ones, which are joined into one read.
ROW = st.integers(0, TOTAL - 1)
STRETCH = st.tuples(ROW, ROW).map(lambda ends: list(range(min(ends), max(ends) + 1)))
ROWS = st.lists(ROW.map(lambda row: [row]) | STRETCH, max_size=12).map(
    lambda parts: [row for part in parts for row in part]
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    path = tmp_path_factory.mktemp("store")
    _, vectors = make_store(path, SIZES, "bfloat16")
    return FeatureStore(path), vectors


@pytest.fixture
def slicing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slice sizes so small that a tiny store has several."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "one slice":
            patch.setattr(positional_reads, "SLICE_BYTES", 100)
            patch.setattr(reader, "SLICE_BYTES", 100)
            patch.setattr(reader, "RUN_BYTES", 50)
        patch.setattr(positional_reads, "THREADS", 1 if request.param == "one thread" else 3)
        if request.param == "few buffers per call":
            patch.setattr(positional_reads, "SLICE_BYTES", 1 << 20)
            patch.setattr(positional_reads, "IOV_MAX", 2)
        yield


def sliced(*ways: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("slicing", ways, indirect=True)


@sliced("one slice", "many slices", "one thread", "few buffers per call")
def test_any_rows_come_in_the_order_asked_for(slicing: None, opened: Opened) -> None:
    store, vectors = opened

    @settings(max_examples=80, deadline=None)
    @given(rows=ROWS)
    def check(rows: list[int]) -> None:
        expected = vectors[np.array(rows, np.int64)]
        for result in (store.vectors(rows), store.gather(rows)):
            assert result.shape == expected.shape and result.dtype == expected.dtype
            assert result.tobytes() == expected.tobytes()

    check()


@sliced("many slices")
def test_any_range_is_read_across_shards(slicing: None, opened: Opened) -> None:
    store, vectors = opened
    for start in range(0, TOTAL + 1, 3):
        for stop in range(start, TOTAL + 1):
            result = store.read(start, stop)
            assert result.dtype == vectors.dtype and result.shape == (stop - start, store.width)
            assert result.tobytes() == vectors[start:stop].tobytes()


def test_reading_into_an_array_fills_and_returns_it(opened: Opened) -> None:
    store, vectors = opened
    out = np.zeros((TOTAL, store.width), store.dtype)
    assert store.read(0, TOTAL, out) is out
    assert out.tobytes() == vectors.tobytes()
    part = out[5:9]
    part[:] = 0
    store.read(2, 6, part)
    assert out[5:9].tobytes() == vectors[2:6].tobytes()


@pytest.mark.parametrize("wrong", ["rows", "type", "strides"])
def test_an_array_that_does_not_fit_is_refused(wrong: str, opened: Opened) -> None:
    store, _ = opened
    out = {
        "rows": np.empty((4, store.width), store.dtype),
        "type": np.empty((5, store.width), np.int64),
        "strides": np.empty((store.width, 5), store.dtype).T,
    }[wrong]
    with pytest.raises(StoreError, match=r"expected a contiguous array of \(5, 6\)"):
        store.read(0, 5, out)


@pytest.mark.parametrize("ends", [(-1, 2), (0, TOTAL + 1), (3, 2)])
def test_ranges_outside_the_store_are_refused(ends: tuple[int, int], opened: Opened) -> None:
    with pytest.raises(StoreError, match=rf"asked for rows .*, the store has {TOTAL}"):
        opened[0].read(*ends)


@pytest.mark.parametrize("rows", [[2, TOTAL, 1], [-1]])
@pytest.mark.parametrize("how", ["gather", "vectors"])
def test_rows_outside_the_store_are_refused(how: str, rows: list[int], opened: Opened) -> None:
    with pytest.raises(StoreError, match=rf"asked for rows .*, the store has {TOTAL}"):
        getattr(opened[0], how)(rows)


def open_files() -> int:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts open files in /proc")
    return len(os.listdir("/proc/self/fd"))


ENDS = r"000001.h5: expected 24 bytes at .*, the file ends.* micro-rm verify"
GONE = r"000001.h5: .*(missing|No such file).* micro-rm verify"
UNMAPPED = r"000001.h5: cannot be mapped.*verify"


@pytest.mark.parametrize(
    ("how", "rows", "truncated", "slice_bytes", "words"),
    [
        ("read", (30, 35), True, 1 << 20, ENDS),
        ("read", (30, 35), False, 24, GONE),
        ("gather", ([34, 0],), True, 24, ENDS),
        ("gather", ([34, 0],), False, 1 << 20, GONE),
        ("vectors", ([34, 0],), True, 1 << 20, UNMAPPED),
        ("vectors", ([34, 0],), False, 1 << 20, GONE),
    ],
)
def test_a_shard_damaged_after_opening_is_named(
    how: str,
    rows: tuple,
    truncated: bool,
    slice_bytes: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(positional_reads, "SLICE_BYTES", slice_bytes)
    make_store(tmp_path, (5, 30))
    store = FeatureStore(tmp_path)
    path = tmp_path / "shards" / "000001.h5"
    if truncated:
        with h5py.File(path) as file:
            end = file["vectors"].id.get_offset() + 29 * 6 * 4  # the last vector is gone
        os.truncate(path, end)
    else:
        path.unlink()
    before = open_files()
    with pytest.raises(StoreError, match=words):
        getattr(store, how)(*rows)
    assert how == "vectors" or open_files() == before


def test_opening_reading_and_gathering_leave_no_file_open(tmp_path: Path) -> None:
    make_store(tmp_path, (2, 2, 2))
    before = open_files()
    store = FeatureStore(tmp_path)
    store.read(0, 6)
    store.gather([5, 0, 3])
    assert open_files() == before


@sliced("many slices")
def test_threads_share_a_store(slicing: None, opened: Opened) -> None:
    store, vectors = FeatureStore(opened[0].path), opened[1]

    def ask(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, TOTAL, 20)
        result = (store.vectors(rows), store.gather(rows), store.read(0, TOTAL)[rows])
        return all(array.tobytes() == vectors[rows].tobytes() for array in result)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))


@sliced("many slices", "few buffers per call")
def test_a_read_may_stop_anywhere(
    slicing: None, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call may return fewer bytes than asked for, in the middle of a vector."""
    store, vectors = opened
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: whole(file, [buffers[0][:5]], at))
    rows = [*range(4, 30), 2, 0, 49, 9, 9]
    assert store.gather(rows).tobytes() == vectors[rows].tobytes()
    assert store.read(1, 50).tobytes() == vectors[1:50].tobytes()


def test_adjacent_rows_are_one_read(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store, vectors = opened
    asked: list[int] = []
    whole = os.preadv

    def counted(file: int, buffers: list[memoryview], at: int) -> int:
        asked.append(len(buffers))
        return whole(file, buffers, at)

    monkeypatch.setattr(os, "preadv", counted)
    rows = [22, 20, 21, 30, 3]  # in a file 20, 21, 22 and 30; in another one 3
    assert store.gather(rows).tobytes() == vectors[rows].tobytes()
    assert sorted(asked) == [1, 1, 2]


def test_a_run_of_more_rows_than_a_call_takes_buffers(tmp_path: Path) -> None:
    _, vectors = make_store(tmp_path, (3 * positional_reads.IOV_MAX,))
    rows = np.arange(len(vectors))[::-1]
    assert FeatureStore(tmp_path).gather(rows).tobytes() == vectors[rows].tobytes()


@pytest.mark.parametrize(("how", "calls"), [("in order", 1), ("random", 0)])
def test_long_runs_are_read_and_not_mapped(
    how: str, calls: int, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vectors = opened
    monkeypatch.setattr(reader, "SLICE_BYTES", 100)
    monkeypatch.setattr(reader, "RUN_BYTES", 100)
    gathered: list[int] = []
    whole = store.gather
    monkeypatch.setattr(store, "gather", lambda rows: gathered.append(1) or whole(rows))
    rows = np.delete(np.arange(TOTAL), 30)
    if how == "random":
        rows = np.random.default_rng(0).permutation(rows)
    assert store.vectors(rows).tobytes() == vectors[rows].tobytes()
    assert len(gathered) == calls


def test_chunked_vectors_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    with h5py.File(tmp_path / "shards" / "000000.h5", "a") as file:
        content = file["vectors"][:]
        del file["vectors"]
        file.create_dataset("vectors", data=content, chunks=(1, 6))
    with pytest.raises(StoreError, match=r"000000.h5: expected vectors in one piece"):
        FeatureStore(tmp_path)


MEASURE = """
import sys
import numpy as np
from micro_rm.cache.reader import FeatureStore

def peak():  # of this process image; ru_maxrss starts at the peak of the process that forked it
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

store = FeatureStore(sys.argv[1])
rows = np.random.default_rng(0).permutation(len(store)).reshape(-1, 64)
for method in (store.gather, store.vectors):
    before = peak()
    for batch in rows:
        method(batch)
    print(peak() - before)
"""


def test_gathering_maps_nothing(tmp_path: Path) -> None:
    """Batches of 0.25 MiB from 48 MiB; `vectors` shows that the measurement sees mapped pages."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("reads the peak memory in /proc")
    vectors = np.ones((12_288, 1024), np.float32)
    manifest = open_manifest(tmp_path, make_identity(), 1024)
    keys = np.array(make_keys(len(vectors)), KEY_DTYPE)
    write_shard(shard_path(tmp_path, 0), make_identity(), "job", keys, vectors)
    adopt_shards(tmp_path, manifest)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    gathered, mapped = map(int, done.stdout.split())
    assert gathered < 6, f"{gathered} MiB"
    assert mapped > 30, f"{mapped} MiB"
