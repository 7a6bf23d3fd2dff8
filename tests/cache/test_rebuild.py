"""A copy is the same store, and a rebuild keeps what is sound."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from micro_rm.cache import copying, writer
from micro_rm.cache.copying import copy_store
from micro_rm.cache.maintenance import copy, rebuild
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, file_checksum, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import adopt_shards
from micro_rm.tests.cache.stores import edit_manifest, silent, vectors_by_pair


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


def test_a_copy_that_does_not_verify_is_an_error(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may lie: what was written is read back whole."""
    problem = "shard 0: bytes differ"
    monkeypatch.setattr(copying, "verify_store", lambda _: SimpleNamespace(problems=[problem]))
    with pytest.raises(StoreError, match=rf"the copy is damaged \({problem}\); copy again"):
        copy_store(store, tmp_path / "copy")


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
