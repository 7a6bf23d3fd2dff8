"""Reading a store back in full finds every kind of damage, each under its own name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from micro_rm.cache.files import file_sum
from micro_rm.cache.native_head import FILE, write_native_head
from micro_rm.cache.pairs import NO_ROW, PairTable, write_pairs
from micro_rm.cache.schema import StoreError, plan_path
from micro_rm.cache.verify import verify_store

MakeStore = Callable[..., tuple[list[bytes], np.ndarray]]
MakeTable = Callable[..., PairTable]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def store(tmp_path: Path, make_store: MakeStore, make_table: MakeTable) -> Path:
    """Two shards of five and three vectors and one pair table."""
    make_store(tmp_path, (5, 3))
    write_pairs(tmp_path, make_table([0, 7, NO_ROW]))
    return tmp_path


def shard(store: Path, number: int = 0) -> Path:
    return store / "shards" / f"{number:06d}.h5"


@pytest.fixture
def relist(edit_manifest: Edit) -> Callable[..., None]:
    """Make the manifest agree with a changed file: now only its content can betray it."""

    def listed_as_it_is(store: Path, number: int = 0) -> None:
        entry = asdict(file_sum(shard(store, number)))
        edit_manifest(store, lambda raw: raw["shards"][number].update(entry))

    return listed_as_it_is


def change(store: Path, name: str, at: tuple[int, int], value: Any, number: int = 0) -> None:
    with h5py.File(shard(store, number), "r+") as file:
        data = file[name]
        assert isinstance(data, h5py.Dataset)
        data[at] = value


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_sound_store_has_no_problems_and_is_counted(store: Path) -> None:
    verdict = verify_store(store)
    assert verdict.problems == []
    assert (verdict.shards, verdict.vectors, verdict.pair_tables, verdict.pairs) == (2, 8, 1, 3)
    assert verdict.bytes == shard(store, 0).stat().st_size + shard(store, 1).stat().st_size


@pytest.mark.parametrize("where", ["vectors", "keys", "header", "end"])
def test_a_flipped_bit_is_found_wherever_it_is(where: str, store: Path) -> None:
    with h5py.File(shard(store), "r") as file:
        offset = {"header": 9, "end": shard(store).stat().st_size - 1}
        for name in ("vectors", "keys"):
            data = file[name]
            assert isinstance(data, h5py.Dataset)
            offset[name] = data.id.get_offset() + 3
    flip(shard(store), offset[where])
    verdict = verify_store(store)
    (problem,) = verdict.problems
    assert "000000.h5: bytes differ from the manifest" in problem
    assert verdict.vectors == 3


def test_every_single_byte_of_a_shard_is_covered(store: Path) -> None:
    honest = shard(store).read_bytes()
    for offset in np.random.default_rng(0).integers(0, len(honest), 50):
        shard(store).write_bytes(honest)
        flip(shard(store), int(offset))
        assert len(verify_store(store).problems) == 1


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_truncated_shard_is_found(size: int, store: Path) -> None:
    shard(store).write_bytes(shard(store).read_bytes()[:size])
    (problem,) = verify_store(store).problems
    assert "000000.h5: bytes differ from the manifest" in problem


def test_a_missing_shard_is_found(store: Path) -> None:
    shard(store, 1).unlink()
    (problem,) = verify_store(store).problems
    assert "000001.h5: missing; it holds rows 5 to 7 of the store. Restore it" in problem
    assert "--rebuild" in problem


def test_one_damaged_shard_does_not_hide_another(store: Path) -> None:
    flip(shard(store, 0), 3000)
    shard(store, 1).unlink()
    problems = verify_store(store).problems
    assert len(problems) == 2
    assert "000000.h5" in problems[0] and "000001.h5" in problems[1]


@pytest.mark.parametrize("source", [1, 6])
def test_a_sequence_that_is_stored_twice_is_found(
    source: int, store: Path, make_keys: Callable[..., list[bytes]], relist: Callable[..., None]
) -> None:
    twice = np.frombuffer(make_keys(8)[source], np.uint8)
    with h5py.File(shard(store, 0), "r+") as file:
        keys = file["keys"]
        assert isinstance(keys, h5py.Dataset)
        keys[4] = twice
    relist(store)
    (problem,) = verify_store(store).problems
    assert problem.endswith("1 sequences are stored more than once")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_found(
    value: float, store: Path, relist: Callable[..., None]
) -> None:
    change(store, "vectors", (2, 1), value, number=1)
    relist(store, 1)
    (problem,) = verify_store(store).problems
    assert "000001.h5: NaN or infinity in row 2; it holds rows 5 to 7 of the store" in problem
    assert "embeds it again" in problem


def test_a_bfloat16_vector_that_is_not_finite_is_found(
    tmp_path: Path, make_store: MakeStore, relist: Callable[..., None]
) -> None:
    make_store(tmp_path, (5,), "bfloat16")
    change(tmp_path, "vectors", (3, 0), 0x7FC0)
    relist(tmp_path)
    (problem,) = verify_store(tmp_path).problems
    assert "NaN or infinity in row 3" in problem


def test_a_shard_of_another_shape_than_listed_is_found(store: Path, edit_manifest: Edit) -> None:
    edit_manifest(store, lambda raw: raw["shards"][0].update(rows=4))
    problems = verify_store(store).problems
    assert any("expected vectors (4, 6)" in problem for problem in problems)


@pytest.mark.parametrize("row", [8, 10_000, -2])
def test_a_pair_table_that_points_beyond_the_store_is_found(
    row: int, store: Path, make_table: MakeTable
) -> None:
    write_pairs(store, make_table([0, row, 3], name="beyond"))
    problems = verify_store(store).problems
    assert len(problems) == 3
    assert all(problem.startswith("beyond: ") and "of 8" in problem for problem in problems)


def test_a_pair_table_of_uneven_length_is_found(store: Path, make_table: MakeTable) -> None:
    write_pairs(store, make_table([0, 1, 2], name="uneven", rows={"plain/prompt": np.arange(2)}))
    (problem,) = verify_store(store).problems
    assert problem == "uneven: 2 rows in plain/prompt for 3 pairs; run micro-rm embed again"


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_pair_table_that_cannot_be_opened_is_found(content: bytes | None, store: Path) -> None:
    path = store / "pairs" / "rows.h5"
    path.write_bytes(path.read_bytes()[:-50] if content is None else content)
    (problem,) = verify_store(store).problems
    assert "rows.h5: bytes differ from the manifest" in problem and "micro-rm embed" in problem


def test_a_sound_reward_head_is_no_problem(store: Path) -> None:
    write_native_head(store, np.ones(6))
    assert verify_store(store).problems == []


@pytest.mark.parametrize(
    "head",
    [np.ones(5), np.ones((6, 1)), np.array([1, 2, np.nan, 4, 5, 6]), np.full(6, np.inf)],
)
def test_a_reward_head_of_another_shape_or_without_finite_weights_is_found(
    head: np.ndarray, store: Path
) -> None:
    write_native_head(store, head)
    (problem,) = verify_store(store).problems
    assert f"{FILE}: expected 6 finite weights, found shape {head.shape}" in problem
    assert "run micro-rm embed again" in problem


def test_a_reward_head_that_cannot_be_opened_is_found(store: Path) -> None:
    path = write_native_head(store, np.ones(6))
    path.write_bytes(path.read_bytes()[:-20])
    (problem,) = verify_store(store).problems
    assert f"{FILE}: bytes differ from the manifest" in problem


@pytest.mark.parametrize("name", ["000009.h5", "000002.h5.tmp", "notes.txt"])
def test_a_file_that_is_not_listed_is_reported(name: str, store: Path) -> None:
    (store / "shards" / name).write_bytes(b"x")
    (problem,) = verify_store(store).problems
    assert f"{name}: not in the manifest" in problem


def test_sealed_shards_of_an_unfinished_job_are_no_problem(store: Path) -> None:
    (store / "shards" / "000009.h5").write_bytes(b"x")
    plan_path(store).mkdir()
    assert verify_store(store).problems == []


def test_a_path_without_a_store_raises(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        verify_store(tmp_path)
