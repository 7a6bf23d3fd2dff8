"""A store is described without reading its vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from micro_rm.cache.inspect import describe_store
from micro_rm.cache.pairs import NO_ROW, PairTable, write_pairs
from micro_rm.cache.schema import Identity, StoreError, plan_path


def test_a_description_counts_vectors_shards_bytes_and_pairs(
    tmp_path: Path,
    make_store: Callable[..., tuple[list[bytes], np.ndarray]],
    make_table: Callable[..., PairTable],
    make_identity: Callable[..., Identity],
) -> None:
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


def test_an_unfinished_job_is_reported(
    tmp_path: Path, make_store: Callable[..., tuple[list[bytes], np.ndarray]]
) -> None:
    make_store(tmp_path, (5, 3))
    plan_path(tmp_path).mkdir()
    (tmp_path / "shards" / "000002.h5").touch()
    description = describe_store(tmp_path)
    assert description["unfinished_job"]
    assert (description["shards"], description["shards_of_unfinished_job"]) == (2, 1)


def test_nothing_to_describe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        describe_store(tmp_path)
