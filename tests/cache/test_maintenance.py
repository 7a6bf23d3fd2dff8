"""gc, delete, copy and rebuild change nothing but what they should."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache import copying, deletion, writer
from micro_rm.cache.copying import copy_store
from micro_rm.cache.files import replace_file
from micro_rm.cache.lock import StoreLock
from micro_rm.cache.maintenance import collect_garbage, copy, delete, rebuild
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import DELETED, NO_ROW, read_pairs, write_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.removal import plan_garbage_collection, select_pairs
from micro_rm.cache.schema import StoreError, file_checksum, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import adopt_shards
from micro_rm.tests.cache.stores import (
    add_shard,
    edit_manifest,
    make_keys,
    make_store,
    make_table,
    open_store,
)


def agree(_: str) -> bool:
    """Say yes to every question."""
    return True


def refuse(_: str) -> bool:
    """Say no to every question."""
    return False


def silent(_: object) -> None:
    """Discard the output."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Shards of 4, 3 and 2 vectors; table "rows" of four users' pairs, and "more" of one pair."""
    path = tmp_path / "store"
    make_store(path, (4, 3, 2))
    table = make_table([1, 3, 7, 8])
    users = {"user": ["ann", "ben", "cleo", "ann"]}
    write_pairs(path, replace(table, text={**table.text, **users}, layout=layout(path)))
    write_pairs(path, make_table([7], name="more", layout=layout(path)))
    (path / "quarantine").mkdir()
    lines = [
        {"row": 3, "field": "chosen", "reason": "empty", "raw": {"user": "ann", "prompt": "p"}},
        {"row": 9, "field": "chosen", "reason": "empty", "raw": {"user": "ben", "prompt": "ann"}},
        {"row": 11, "field": "", "reason": "not JSON", "raw": '{"user": "ann", }'},
    ]
    half = path / "quarantine" / "rows.jsonl.tmp"
    half.write_text("".join(json.dumps(line) + "\n" for line in lines))
    replace_file(path, "quarantine/rows.jsonl", half)
    return path


def layout(path: Path) -> str:
    return read_manifest(path).layout()


def vectors_by_pair(store: Path, name: str) -> dict[tuple[str, str], bytes]:
    """The bytes of every vector that a table's pairs use, by pair and role."""
    table, reader = read_pairs(store, name), FeatureStore(store)
    return {
        (pair, key): reader.vectors([row])[0].tobytes()
        for key, rows in table.rows.items()
        for pair, row in zip(table.text["pair_id"], rows.tolist(), strict=True)
        if row != NO_ROW
    }


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


def test_a_copy_is_the_same_store(store: Path, tmp_path: Path) -> None:
    copy(store, str(tmp_path / "copy"), silent)
    copied = [path for path in sorted((tmp_path / "copy").rglob("*")) if path.is_file()]
    assert len(copied) == 7  # manifest, three shards, two tables, quarantine
    for path in copied:
        assert path.read_bytes() == (store / path.relative_to(tmp_path / "copy")).read_bytes()


def test_a_copy_that_cannot_be_complete_is_not_started(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(StoreError, match=r"bytes are needed, 10 are free"):
        copy_store(store, tmp_path / "copy")
    monkeypatch.undo()
    plan_path(store).mkdir()
    with pytest.raises(StoreError, match="a job is unfinished"):
        copy_store(store, tmp_path / "copy")
    assert not any(path.is_file() for path in (tmp_path / "copy").rglob("*"))


def test_a_copy_of_a_damaged_store_or_onto_a_store_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is a store already"):
        copy_store(store, store)
    shard = store / "shards" / "000001.h5"
    honest = shard.read_bytes()
    shard.write_bytes(honest[:-1] + b"?")
    with pytest.raises(StoreError, match=r"000001\.h5: its bytes are not those"):
        copy_store(store, tmp_path / "copy")
    assert not (tmp_path / "copy" / "manifest.json").exists()
    shard.unlink()
    with pytest.raises(StoreError, match=r"000001\.h5: missing"):
        copy_store(store, tmp_path / "copy")
    shard.write_bytes(honest)
    copy_store(store, tmp_path / "copy")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_lost_manifest_is_rebuilt_from_the_shards_alone(content: str | None, store: Path) -> None:
    before = read_manifest(store)
    path = store / "manifest.json"
    path.unlink() if content is None else path.write_text(content)
    facts = rebuild(store, silent)
    assert read_manifest(store) == before
    assert facts["set_aside"] == [] and facts["outdated_tables"] == []


def test_a_damaged_shard_is_set_aside_and_tables_that_refer_to_it_are_named(store: Path) -> None:
    shard = store / "shards" / "000001.h5"
    with h5py.File(shard, "r+") as file:
        file["vectors"][1, 1] += 1  # type: ignore[index]
    (store / "manifest.json").unlink()
    said: list[str] = []
    facts = rebuild(store, lambda text: said.append(str(text)))
    assert facts["outdated_tables"] == ["more", "rows"]
    assert "000001.h5: its content is not what was sealed" in facts["set_aside"][0]
    assert (store / "damaged" / "000001.h5").is_file()
    manifest = read_manifest(store)
    assert [s.name for s in manifest.shards] == ["000000.h5", "000002.h5"]
    assert manifest.next_shard == 3
    with pytest.raises(StoreError, match=r"those of other shards .*run micro-rm embed"):
        FeatureStore(store).require_layout(read_pairs(store, "rows").layout, "rows")
    assert any("row numbers are those of other shards" in p for p in verify_store(store).problems)


def test_the_number_of_a_shard_that_was_set_aside_is_not_reused(store: Path) -> None:
    """Else tables that refer to the lost shard would find another one under its name."""
    (store / "shards" / "000002.h5").write_bytes(b"nothing")
    (store / "manifest.json").unlink()
    rebuild(store, silent)
    assert read_manifest(store).next_shard == 3


def test_a_sealed_shard_that_is_not_finite_is_set_aside(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions may have sealed one, under a valid checksum."""
    manifest, shard = read_manifest(store), store / "shards" / "000001.h5"
    keys, vectors = FeatureStore(store).keys()[4:7], FeatureStore(store).gather(np.arange(4, 7))
    vectors[1, 1] = np.nan
    monkeypatch.setattr(writer, "first_not_finite", lambda _: None)
    writer.write_shard(shard, manifest.identity, "job", keys, vectors)
    (store / "manifest.json").unlink()
    facts = rebuild(store, silent)
    assert "000001.h5: NaN or infinity in row 1" in facts["set_aside"][0]
    assert [s.name for s in read_manifest(store).shards] == ["000000.h5", "000002.h5"]


def test_a_file_set_aside_twice_is_kept_twice(store: Path) -> None:
    shard, kept = store / "shards" / "000002.h5", []
    for content in (b"one", b"two"):
        shard.write_bytes(content)
        rebuild(store, silent)
        kept = sorted(path.read_bytes() for path in (store / "damaged").glob("000002.h5*"))
    assert kept == [b"one", b"two"]


def test_a_manifest_of_a_newer_version_is_not_rebuilt(store: Path) -> None:
    edit_manifest(store, lambda raw: raw.update(format=9))
    before = (store / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match="newer"):
        rebuild(store, silent)
    assert (store / "manifest.json").read_bytes() == before


def test_a_rebuild_also_checks_the_checksums_of_a_readable_manifest(store: Path) -> None:
    """They cover what no content checksum does: the header of a shard, and a pair table."""
    shard, table = store / "shards" / "000002.h5", store / "pairs" / "more.h5"
    for path in (shard, table):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    facts = rebuild(store, silent)
    assert len(facts["set_aside"]) == 2
    assert sorted(path.name for path in (store / "damaged").iterdir()) == ["000002.h5", "more.h5"]
    assert facts["outdated_tables"] == ["rows"]


def test_a_store_of_format_1_is_read_verified_and_made_format_2(store: Path) -> None:
    """As micro-rm 0.1 wrote it: checksums of shards only, and no layout in tables."""
    manifest = read_manifest(store)
    for path in [*store.glob("shards/*.h5"), *store.glob("pairs/*.h5")]:
        with h5py.File(path, "r+") as file:
            for name in ("checksum", "layout"):
                if name in file.attrs:
                    del file.attrs[name]
    old = [
        asdict(shard)
        | {
            "bytes": (store / "shards" / shard.name).stat().st_size,
            "checksum": file_checksum(store / "shards" / shard.name),
        }
        for shard in manifest.shards
    ]
    raw = {"format": 1, "identity": asdict(manifest.identity), "width": 6, "shards": old}
    (store / "manifest.json").write_text(json.dumps(raw, indent=2) + "\n")
    verdict = verify_store(store)
    assert verdict.problems == [] and "format 1 has no checksums" in verdict.notes[0]
    assert len(vectors_by_pair(store, "rows")) == 12
    with pytest.raises(StoreError, match="format 1 cannot vouch"):
        copy_store(store, store.parent / "copy")
    facts = rebuild(store, silent)
    assert facts["outdated_tables"] == [] and facts["files"] == 3
    assert read_manifest(store).format == 2
    assert verify_store(store).notes == [] and verify_store(store).problems == []
    assert adopt_shards(store, read_manifest(store)).rows == 9


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
