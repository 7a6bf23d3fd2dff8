"""gc and delete change nothing but what they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache import deletion
from micro_rm.cache.lock import StoreLock
from micro_rm.cache.maintenance import collect_garbage, delete
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import DELETED, read_pairs, write_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.removal import plan_garbage_collection, select_pairs
from micro_rm.cache.schema import StoreError, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.tests.cache.stores import (
    add_shard,
    edit_manifest,
    layout,
    make_keys,
    make_store,
    make_table,
    open_store,
    silent,
    vectors_by_pair,
)


def agree(_: str) -> bool:
    """Say yes to every question."""
    return True


def refuse(_: str) -> bool:
    """Say no to every question."""
    return False


def test_gc_removes_what_no_table_uses_and_nothing_else(store: Path) -> None:
    before = {name: vectors_by_pair(store, name) for name in ("rows", "more")}
    said: list[str] = []
    facts = collect_garbage(store, lambda text: said.append(str(text)), agree)
    assert (facts["vectors"], facts["shards_removed"], facts["shards_rewritten"]) == (5, 1, 1)
    assert "5 vectors (120 bytes; 1 shards go, 1 are written anew) that no pair" in said[0]
    manifest = read_manifest(store)
    assert [shard.name for shard in manifest.shards] == ["000002.h5", "000003.h5"]
    assert manifest.rows == 4 and manifest.next_shard == 4
    assert {name: vectors_by_pair(store, name) for name in ("rows", "more")} == before
    assert verify_store(store).problems == []
    assert collect_garbage(store, silent, agree)["vectors"] == 0


def test_gc_asks_first(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()}
    said: list[str] = []
    assert collect_garbage(store, lambda text: said.append(str(text)), refuse)["done"] is False
    assert said[-1] == "gc       nothing was changed; --yes removes them"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_gc_waits_for_writers_and_for_unfinished_jobs(store: Path) -> None:
    plan_path(store).mkdir()
    with pytest.raises(StoreError, match="a job is unfinished"):
        collect_garbage(store, silent, agree)
    with StoreLock(store) as lock:
        assert lock.acquire()
        with pytest.raises(StoreError, match="another process is writing here"):
            collect_garbage(store, silent, agree)


def test_the_number_of_a_removed_shard_is_never_reused(store: Path) -> None:
    """Else an open reader would take the new file for the removed one."""
    write_pairs(store, make_table([0, 1], layout=layout(store)))
    (store / "pairs" / "more.h5").unlink()
    edit_manifest(store, lambda raw: raw["files"].pop("pairs/more.h5"))
    collect_garbage(store, silent, agree)
    assert [shard.name for shard in read_manifest(store).shards] == ["000003.h5"]
    add_shard(store, make_keys(2, 90), np.ones((2, 6), np.float32))
    assert [shard.name for shard in read_manifest(store).shards] == ["000003.h5", "000004.h5"]


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 4), max_size=4), data=st.data())
def test_gc_keeps_every_vector_that_any_table_uses(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store")
    open_store(path)
    make_store(path, [size for size in sizes if size])
    rows = sum(sizes)
    for name in data.draw(st.sets(st.sampled_from("abc"))):
        rows_of_pairs = data.draw(st.lists(st.integers(-1, rows - 1), max_size=5))
        write_pairs(path, make_table(rows_of_pairs, name=name, layout=layout(path)))
    names = [table.stem for table in (path / "pairs").glob("*.h5")]
    before = {name: vectors_by_pair(path, name) for name in names}
    used = {vector for vectors in before.values() for vector in vectors.values()}
    collect_garbage(path, silent, agree)
    assert {name: vectors_by_pair(path, name) for name in names} == before
    assert len(FeatureStore(path)) == len(used)
    assert verify_store(path).problems == []


def test_deleting_a_user_leaves_nothing_of_theirs_and_all_of_the_others(store: Path) -> None:
    before = vectors_by_pair(store, "rows")
    secret = read_pairs(store, "rows").text["chosen"][3]
    assert secret.encode() in (store / "pairs" / "rows.h5").read_bytes()
    said: list[str] = []
    facts = delete(store, ["ann"], [], lambda text: said.append(str(text)), agree)
    assert facts["pairs"] == {"rows": 2} and facts["refused_rows"] == 2
    assert facts["vectors"] == 2  # rows 1 and 8; the others' pairs need 3 and 7
    assert facts["problems"] == [] and facts["proof"]["found"] == []
    assert facts["proof"]["texts"] >= 5 and facts["proof"]["keys"] == 2
    table = read_pairs(store, "rows")
    assert table.text["user"] == ["ben", "cleo"]
    assert secret.encode() not in (store / "pairs" / "rows.h5").read_bytes()
    assert table.account["deleted_pairs"] == 2
    kept = {key: value for key, value in before.items() if key[0] in table.text["pair_id"]}
    assert vectors_by_pair(store, "rows") == kept
    lines = (store / "quarantine" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [9]
    assert verify_store(store).problems == []
    assert "run directories" in said[-1]


def test_deleting_a_pair_by_its_id(store: Path) -> None:
    (pair,) = read_pairs(store, "more").text["pair_id"]
    facts = delete(store, [], [pair], silent, agree)
    # make_table numbers pairs within a table: the id is that of a pair of the other one too.
    assert facts["pairs"] == {"more": 1, "rows": 1}
    assert len(read_pairs(store, "more")) == 0 and len(read_pairs(store, "rows")) == 3


def test_every_deletion_counts_towards_what_was_deleted(store: Path) -> None:
    """The count changes with each, so that a run trained between two deletions is outdated too."""
    for user, gone in (("ann", 2), ("ben", 3)):
        delete(store, [user], [], silent, agree)
        assert read_pairs(store, "rows").account[DELETED] == gone


@pytest.mark.parametrize(("users", "pairs"), [(["nobody"], []), ([], [])])
def test_deleting_rows_that_do_not_exist_is_an_error(
    users: list[str], pairs: list[str], store: Path
) -> None:
    with pytest.raises(StoreError, match=r"no pair and no refused row|nothing to delete"):
        delete(store, users, pairs, silent, agree)


def test_the_search_finds_what_a_deletion_left_behind(store: Path, monkeypatch: Any) -> None:
    """Here the removal does nothing."""
    monkeypatch.setattr(deletion, "apply_removal", lambda *_: None)
    facts = delete(store, ["ann"], [], silent, agree)
    problems = "\n".join(facts["problems"])
    assert "rows: user 'ann'" in problems and "vectors are still stored" in problems
    assert "rows.h5: 'chosen 3" in problems


def test_selecting_pairs_selects_from_every_column() -> None:
    table = make_table([4, 5, 6], ratings={"help": np.arange(6.0).reshape(3, 2)})
    selected = select_pairs(table, np.array([2, 0]))
    assert len(selected) == 2
    assert selected.rows["plain/chosen"].tolist() == [6, 4]
    assert [row[0] for row in selected.ratings["help"].tolist()] == [4.0, 0.0]
    for name in ("source_row", "pool", "margin"):
        assert len(getattr(selected, name)) == 2
    assert {len(column) for column in selected.text.values()} == {2}
    assert {len(counts) for counts in selected.tokens.values()} == {2}


def test_gc_refuses_tables_that_refer_to_other_shards(store: Path) -> None:
    """Their row indices do not tell which vectors are used."""
    write_pairs(store, make_table([0], name="old", layout="1:" + "0" * 32))
    with pytest.raises(StoreError, match="'old' are those of other shards"):
        plan_garbage_collection(store)
