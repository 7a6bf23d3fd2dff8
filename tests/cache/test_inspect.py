"""A store is described without reading its vectors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from micro_rm.cache.inspect import describe_store
from micro_rm.cache.pairs import NO_ROW, write_pairs
from micro_rm.cache.schema import plan_path
from micro_rm.tests.cache.stores import make_identity, make_store, make_table


def test_a_description_counts_vectors_shards_bytes_and_pairs(tmp_path: Path) -> None:
    make_store(tmp_path, (5, 3))
    table = make_table([0, 1, NO_ROW, 2])
    table.text["split"][3] = "test"
    table.text["attribute"][:] = ["brief", "brief", "", "long"]
    write_pairs(tmp_path, table)
    description = describe_store(tmp_path)
    assert (description["vectors"], description["shards"], description["width"]) == (8, 2, 6)
    assert description["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "shards").iterdir()
    )
    assert not description["unfinished_job"]
    assert description["shards_of_unfinished_job"] == 0
    assert description["identity"] == asdict(make_identity())
    assert description["tables"]["rows"] == {
        "pairs": 4,
        "splits": {"train": 3, "test": 1},
        "attributes": {"brief": 2, "(none)": 1, "long": 1},
        "views": {"ctx/rejected": 3, "plain/chosen": 3, "plain/prompt": 3},
        "account": {"rows": 4, "ties": {"brief": 2}},
    }


def test_an_unfinished_job_is_reported(tmp_path: Path) -> None:
    make_store(tmp_path, (5, 3))
    plan_path(tmp_path).mkdir()
    (tmp_path / "shards" / "000002.h5").touch()
    description = describe_store(tmp_path)
    assert description["unfinished_job"]
    assert (description["shards"], description["shards_of_unfinished_job"]) == (2, 1)
