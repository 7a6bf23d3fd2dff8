"""Reading a store back in full finds every kind of damage, each under its own name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest

from micro_rm.cache.files import file_sum
from micro_rm.cache.native_head import FILE, write_native_head
from micro_rm.cache.pairs import NO_ROW, write_pairs
from micro_rm.cache.schema import plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.tests.cache.stores import edit_manifest, make_keys, make_store, make_table


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards of five and three vectors and one pair table."""
    make_store(tmp_path, (5, 3))
    write_pairs(tmp_path, make_table([0, 7, NO_ROW]))
    return tmp_path


def shard(store: Path, number: int = 0) -> Path:
    return store / "shards" / f"{number:06d}.h5"


def relist(store: Path, number: int = 0) -> None:
    """Make the manifest agree with a changed file: now only its content can betray it."""
    entry = asdict(file_sum(shard(store, number)))
    edit_manifest(store, lambda raw: raw["shards"][number].update(entry))


def test_a_sound_store_has_no_problems_and_is_counted(store: Path) -> None:
    write_native_head(store, np.ones(6))
    verdict = verify_store(store)
    assert verdict.problems == []
    assert (verdict.shards, verdict.vectors, verdict.pair_tables, verdict.pairs) == (2, 8, 1, 3)
    assert verdict.bytes == shard(store, 0).stat().st_size + shard(store, 1).stat().st_size


def test_a_flipped_bit_is_found_wherever_it_is(store: Path) -> None:
    honest = shard(store).read_bytes()
    for offset in [*np.random.default_rng(0).integers(0, len(honest), 30), len(honest) - 1]:
        content = bytearray(honest)
        content[offset] ^= 1
        shard(store).write_bytes(content)
        verdict = verify_store(store)
        (problem,) = verdict.problems
        assert "000000.h5: bytes differ from the manifest" in problem and verdict.vectors == 3


def test_a_truncated_and_a_missing_shard_are_both_found(store: Path) -> None:
    shard(store).write_bytes(shard(store).read_bytes()[:-1])
    shard(store, 1).unlink()
    truncated, missing = verify_store(store).problems
    assert "000000.h5: bytes differ from the manifest" in truncated
    assert "000001.h5: missing; it holds rows 5 to 7 of the store. Restore it" in missing
    assert "--rebuild" in missing


@pytest.mark.parametrize("source", [1, 6])
def test_a_sequence_that_is_stored_twice_is_found(source: int, store: Path) -> None:
    with h5py.File(shard(store), "r+") as file:
        file["keys"][4] = np.frombuffer(make_keys(8)[source], np.uint8)
    relist(store)
    (problem,) = verify_store(store).problems
    assert problem.endswith("1 sequences are stored more than once")


def test_a_vector_that_is_not_finite_is_found(store: Path) -> None:
    with h5py.File(shard(store, 1), "r+") as file:
        file["vectors"][2, 1] = np.nan
    relist(store, 1)
    (problem,) = verify_store(store).problems
    assert "000001.h5: NaN or infinity in row 2; it holds rows 5 to 7 of the store" in problem
    assert "embeds it again" in problem


def test_a_shard_of_another_shape_than_listed_is_found(store: Path) -> None:
    edit_manifest(store, lambda raw: raw["shards"][0].update(rows=4))
    problems = verify_store(store).problems
    assert any("expected vectors (4, 6)" in problem for problem in problems)


@pytest.mark.parametrize("row", [8, -2])
def test_a_pair_table_that_points_beyond_the_store_is_found(row: int, store: Path) -> None:
    write_pairs(store, make_table([0, row, 3], name="beyond"))
    problems = verify_store(store).problems
    assert len(problems) == 3
    assert all(problem.startswith("beyond: ") and "of 8" in problem for problem in problems)


def test_a_pair_table_of_uneven_length_is_found(store: Path) -> None:
    write_pairs(store, make_table([0, 1, 2], name="uneven", rows={"plain/prompt": np.arange(2)}))
    (problem,) = verify_store(store).problems
    assert problem == "uneven: 2 rows in plain/prompt for 3 pairs; run micro-rm embed again"


@pytest.mark.parametrize("head", [np.ones(5), np.ones((6, 1)), np.array([1, 2, np.nan, 4, 5, 6])])
def test_a_reward_head_of_another_shape_or_without_finite_weights_is_found(
    head: np.ndarray, store: Path
) -> None:
    write_native_head(store, head)
    (problem,) = verify_store(store).problems
    assert f"{FILE}: expected 6 finite weights, found shape {head.shape}" in problem
    assert "run micro-rm embed again" in problem


@pytest.mark.parametrize("name", ["pairs/rows.h5", FILE])
def test_another_file_that_was_changed_is_found(name: str, store: Path) -> None:
    write_native_head(store, np.ones(6))
    (store / name).write_bytes((store / name).read_bytes()[:-20])
    (problem,) = verify_store(store).problems
    assert f"{name}: bytes differ from the manifest" in problem and "micro-rm embed" in problem


def test_files_that_are_not_listed_are_reported_unless_a_job_is_unfinished(store: Path) -> None:
    for name in ("000002.h5.tmp", "000009.h5"):
        (store / "shards" / name).write_bytes(b"x")
    assert [problem.split(";")[0].split("/")[-1] for problem in verify_store(store).problems] == [
        "000002.h5.tmp: not in the manifest",
        "000009.h5: not in the manifest",
    ]
    plan_path(store).mkdir()
    (store / "shards" / "000002.h5.tmp").unlink()
    assert verify_store(store).problems == []
