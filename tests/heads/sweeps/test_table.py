"""sweep.parquet: what is written comes back, parts of several processes are joined."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from micro_rm.cache.lock import FileLock
from micro_rm.cache.schema import StoreError
from micro_rm.common.errors import UserError
from micro_rm.configs.schema import Config
from micro_rm.heads.sweeps import table as sweep_table
from micro_rm.heads.sweeps.plan import Member, make_member
from micro_rm.heads.sweeps.table import (
    ATTRIBUTE,
    FILE,
    META,
    PARTS,
    SweepTable,
    clear_parts,
    read_sweep,
    rows_of,
)

ODD = ("brief", "accuracy of x", "a/b, c", "ätt\n<script>", "(none)", "member", "")
KEYS = ("train.num_heads", "run.seed")


def member(number: int, heads: int = 3, seed: int = 0) -> Member:
    return make_member(Config(), number, {"train.num_heads": heads, "run.seed": seed})


def numbers(accuracy: float, attributes: tuple[str, ...] = ODD, **known: Any) -> dict[str, Any]:
    values = {name: accuracy + place / 100 for place, name in enumerate(attributes)}
    return {"accuracy": accuracy, "nll": 0.5, "ece": 0.1, "attributes": values} | known


VALIDATED = {"validation_nll": 0.7, "validation_accuracy": 0.6, "validation_rows": 12}


# The wanted members by label: seeds 0 to 9.
WANTED = {member(seed, seed=seed).label: seed for seed in range(10)}


def write_part(run: Path, part: str, written: SweepTable, wanted: dict[str, int] = WANTED) -> None:
    sweep_table.write_part(run, part, written, wanted)


def read_parts(run: Path, like: SweepTable, wanted: dict[str, int] = WANTED) -> SweepTable:
    return sweep_table.read_parts(run, like, wanted)


def sweep(
    rows: list[dict[str, Any]], keys: tuple[str, ...] = KEYS, inputs: str = "these"
) -> SweepTable:
    return SweepTable(inputs, keys, ODD, rows)


def test_a_member_has_a_row_per_method() -> None:
    one = member(4, heads=5, seed=2)
    rows = rows_of(one, {"micro": numbers(0.5), "micro_stage1": numbers(0.25, **VALIDATED)})
    assert [row["method"] for row in rows] == ["micro", "micro_stage1"]
    for row in rows:
        assert (row["member"], row["label"]) == (4, one.label)
        assert (row["train.num_heads"], row["run.seed"]) == (5, 2)
    assert rows[0]["validation_nll"] is None and rows[1]["validation_rows"] == 12
    assert rows[1][ATTRIBUTE + "a/b, c"] == 0.27


def test_a_member_that_failed_has_one_row_that_says_why() -> None:
    (row,) = rows_of(member(1), UserError("diverged; lower it"))
    assert row["error"] == "diverged; lower it" and row["member"] == 1
    assert "method" not in row and row["train.num_heads"] == 3


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Odd names of attributes, a failure, numbers that are missing."""
    rows = rows_of(member(0), {"micro": numbers(0.5), "static_mixture": numbers(0.6, **VALIDATED)})
    rows += rows_of(member(1, seed=1), UserError("no <b>way</b>"))
    assert read_sweep(tmp_path) is None
    write_part(tmp_path, "0-of-1", sweep(rows))
    found = read_sweep(tmp_path)
    assert found is not None
    assert (found.inputs, found.keys, found.attributes) == ("these", KEYS, ODD)
    assert found.labels == {member(0).label, member(1, seed=1).label}
    columns = {"member", "label", "method", "error", *KEYS, *(ATTRIBUTE + name for name in ODD)}
    for before, after in zip(rows, found.rows, strict=True):
        assert columns <= after.keys()
        assert {name: value for name, value in after.items() if value is not None} == {
            name: value for name, value in before.items() if value is not None
        }
    assert not list(tmp_path.rglob("*.tmp"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [PARTS, FILE]


def test_settings_keep_their_types(tmp_path: Path) -> None:
    keys = ("train.patience", "train.router", "train.learning_rate", "adapt.budget", "train.clip")
    points: list[dict[str, Any]] = [
        {
            "train.patience": None,
            "train.router": "mlp",
            "train.learning_rate": 1,
            "train.clip": 2.0,
        },
        {"train.patience": 3, "train.router": "linear", "train.learning_rate": 1e-3},
        {"adapt.budget": 7, "train.clip": 2.0},
    ]
    made = [make_member(Config(), number, point) for number, point in enumerate(points)]
    rows = [row for one in made for row in rows_of(one, {"micro": numbers(0.5)})]
    write_part(tmp_path, "0-of-1", sweep(rows, keys), {one.label: one.number for one in made})
    found = read_sweep(tmp_path)
    assert found is not None
    for point, row in zip(points, found.rows, strict=True):
        assert {key: row[key] for key in keys} == {key: point.get(key) for key in keys}
        assert json.loads(row["label"]) == point


def test_a_sweep_without_rows_can_be_written(tmp_path: Path) -> None:
    write_part(tmp_path, "0-of-1", sweep([], ()))
    found = read_sweep(tmp_path)
    assert found is not None and found.rows == [] and found.labels == set()


def test_the_columns_are_typed_whatever_the_rows(tmp_path: Path) -> None:
    """A first part of failures only has the types of any other."""
    write_part(tmp_path, "0-of-1", sweep(rows_of(member(0), UserError("no"))))
    schema = parquet.read_schema(tmp_path / FILE)
    types = {name: schema.field(name).type for name in ("accuracy", "validation_rows", "method")}
    assert types == {"accuracy": pa.float64(), "validation_rows": pa.int64(), "method": pa.string()}
    assert schema.field(ATTRIBUTE + "brief").type == pa.float64()


# --- parts ----------------------------------------------------------------------------------------


def rows_for(*seeds: int, accuracy: float = 0.5) -> list[dict[str, Any]]:
    return [
        row
        for seed in seeds
        for row in rows_of(member(seed, seed=seed), {"micro": numbers(accuracy)})
    ]


def seeds_of(found: SweepTable | None) -> list[int]:
    assert found is not None
    return [row["run.seed"] for row in found.rows]


def test_parts_of_several_processes_are_joined_in_order_of_members(tmp_path: Path) -> None:
    write_part(tmp_path, "1-of-2", sweep(rows_for(3, 1)))
    assert seeds_of(read_sweep(tmp_path)) == [1, 3]
    write_part(tmp_path, "0-of-2", sweep(rows_for(0, 2)))
    assert seeds_of(read_sweep(tmp_path)) == [0, 1, 2, 3]
    write_part(tmp_path, "0-of-2", sweep(rows_for(0, 2, 4)))
    assert seeds_of(read_sweep(tmp_path)) == [0, 1, 2, 3, 4]


def test_a_member_of_two_parts_is_there_once(tmp_path: Path) -> None:
    both = rows_of(member(0), {"micro": numbers(0.5), "micro_stage1": numbers(0.4)})
    write_part(tmp_path, "0-of-1", sweep(both))
    write_part(tmp_path, "0-of-2", sweep(both + rows_for(1)))
    found = read_sweep(tmp_path)
    assert found is not None
    assert [(row["member"], row["method"]) for row in found.rows] == [
        (0, "micro"),
        (0, "micro_stage1"),
        (1, "micro"),
    ]


def test_parts_of_other_inputs_or_keys_are_left_out_and_then_removed(tmp_path: Path) -> None:
    like = sweep([])
    write_part(tmp_path, "0-of-4", sweep(rows_for(0)))
    write_part(tmp_path, "1-of-4", sweep(rows_for(1), inputs="others"))
    write_part(tmp_path, "2-of-4", sweep(rows_for(2), keys=("run.seed",)))
    write_part(tmp_path, "3-of-4", sweep(rows_for(3), keys=KEYS[::-1]))
    assert seeds_of(read_parts(tmp_path, like)) == [0, 3]
    clear_parts(tmp_path, "these", KEYS)
    left = sorted(path.stem for path in (tmp_path / PARTS).glob("*.parquet"))
    assert left == ["0-of-4", "3-of-4"]


def test_members_that_are_not_wanted_are_left_out_and_the_others_numbered_anew(
    tmp_path: Path,
) -> None:
    write_part(tmp_path, "0-of-2", sweep(rows_for(0, 2)))
    write_part(tmp_path, "1-of-2", sweep(rows_for(1, 3)))
    wanted = {member(0, seed=seed).label: number for number, seed in enumerate((3, 0, 7))}
    found = read_parts(tmp_path, sweep([]), wanted)
    assert [(row["member"], row["run.seed"]) for row in found.rows] == [(0, 3), (1, 0)]


def test_there_may_be_no_parts_yet(tmp_path: Path) -> None:
    clear_parts(tmp_path, "these", KEYS)
    assert read_parts(tmp_path, sweep([])).rows == []


def test_who_joins_the_parts_waits_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = FileLock(tmp_path / PARTS / "lock")
    assert held.acquire()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert not (tmp_path / FILE).exists()
        assert (tmp_path / PARTS / "0-of-1.parquet").exists()
        if len(slept) == 2:
            held.close()

    monkeypatch.setattr("micro_rm.heads.sweeps.table.time.sleep", sleep)
    write_part(tmp_path, "0-of-1", sweep(rows_for(0)))
    assert len(slept) == 2 and seeds_of(read_sweep(tmp_path)) == [0]


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "no meta", "other meta", "list"])
def test_a_damaged_table_is_an_error_that_says_what_to_do(tmp_path: Path, damage: str) -> None:
    write_part(tmp_path, "0-of-1", sweep(rows_for(0)))
    path = tmp_path / FILE
    if damage == "text":
        path.write_text("not parquet", "utf-8")
    else:
        meta = {"no meta": None, "other meta": {META: b"{}"}, "list": {META: b"[]"}}[damage]
        table = parquet.read_table(path)
        parquet.write_table(table.replace_schema_metadata(meta), path)
    with pytest.raises(StoreError, match=r"sweep\.parquet: damaged .* run micro-rm sweep"):
        read_sweep(tmp_path)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_part(tmp_path, "0-of-2", sweep(rows_for(0)))
    (tmp_path / PARTS / "1-of-2.parquet").write_text("no", "utf-8")
    with pytest.raises(StoreError, match=r"1-of-2\.parquet: damaged"):
        read_parts(tmp_path, sweep([]))
    with pytest.raises(StoreError, match=r"1-of-2\.parquet: damaged"):
        clear_parts(tmp_path, "these", KEYS)


def test_attributes_are_the_sweeps_not_the_rows(tmp_path: Path) -> None:
    fewer = replace(sweep(rows_for(0)), attributes=("brief",))
    write_part(tmp_path, "0-of-1", fewer)
    found = read_sweep(tmp_path)
    assert found is not None and found.attributes == ("brief",)
    assert [name for name in found.rows[0] if name.startswith(ATTRIBUTE)] == ["accuracy of brief"]
