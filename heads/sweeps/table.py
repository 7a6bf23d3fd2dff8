"""``sweep.parquet``: one row per member and method, written as the members are done.

Every process writes a part of its own under ``sweep/``; whoever has written joins all parts of the
same inputs. A sweep that was stopped goes on behind the members of the parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ...cache.lock import FileLock
from ...cache.schema import StoreError
from ...common.errors import UserError
from ...common.files import commit_file
from .plan import Member

FILE, PARTS, LOCK = "sweep.parquet", "sweep", "sweep/lock"
META = b"micro_rm"
LOCK_SECONDS = 0.05
NUMBERS = {
    "accuracy": pa.float64(),
    "nll": pa.float64(),
    "ece": pa.float64(),
    "validation_accuracy": pa.float64(),
    "validation_nll": pa.float64(),
    "validation_rows": pa.int64(),
}
ATTRIBUTE = "accuracy of "
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepTable:
    """A finished or unfinished sweep: rows, swept keys, attributes, and what it depends on."""

    inputs: str
    keys: tuple[str, ...]
    attributes: tuple[str, ...]
    rows: list[Row]

    @property
    def labels(self) -> set[str]:
        """Labels of the members that have rows."""
        return {row["label"] for row in self.rows}


def rows_of(member: Member, results: Mapping[str, Mapping[str, Any]] | UserError) -> list[Row]:
    """The rows of a member: one per method, or a single one that says why there is none."""
    about: Row = {"member": member.number, "label": member.label, **member.settings}
    if isinstance(results, UserError):
        return [about | {"error": str(results)}]
    rows = []
    for method, numbers in results.items():
        attributes = {ATTRIBUTE + name: value for name, value in numbers["attributes"].items()}
        known = {name: numbers.get(name) for name in NUMBERS}  # validation may be impossible
        rows.append(about | {"method": method} | known | attributes)
    return rows


def write_part(run: Path, part: str, sweep: SweepTable, numbers: Mapping[str, int]) -> None:
    """Write one process's rows and join all parts of the same inputs into ``sweep.parquet``.

    ``numbers`` are those of the wanted members by label.
    """
    (run / PARTS).mkdir(parents=True, exist_ok=True)
    _write(run / PARTS / f"{part}.parquet", sweep)
    with locked(run):
        _write(run / FILE, read_parts(run, sweep, numbers))


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """The right to write what the processes of a sweep have in common."""
    with FileLock(run / LOCK) as lock:
        while not lock.acquire():
            time.sleep(LOCK_SECONDS)
        yield


def read_parts(run: Path, like: SweepTable, numbers: Mapping[str, int]) -> SweepTable:
    """Rows of the wanted members in all parts with the inputs of ``like``, in order of members."""
    by_part: dict[str, list[Row]] = {}
    for path in sorted((run / PARTS).glob("*.parquet")):
        part = _read(path)
        if part.inputs == like.inputs and set(part.keys) == set(like.keys):
            by_label: dict[str, list[Row]] = {}
            for row in part.rows:
                if row["label"] in numbers:
                    row["member"] = numbers[row["label"]]
                    by_label.setdefault(row["label"], []).append(row)
            by_part |= by_label
    rows = sorted((row for rows in by_part.values() for row in rows), key=lambda row: row["member"])
    return SweepTable(like.inputs, like.keys, like.attributes, rows)


def clear_parts(run: Path, inputs: str, keys: Iterable[str]) -> int:
    """Remove the parts of sweeps with other inputs or keys; returns how many members they had."""
    members = 0
    for path in (run / PARTS).glob("*.parquet"):
        part = _read(path)
        if part.inputs != inputs or set(part.keys) != set(keys):
            members += len(part.labels)
            path.unlink()
    return members


def read_sweep(run: Path) -> SweepTable | None:
    """The sweep of a run directory, None if there is none. ``StoreError`` if it is damaged."""
    path = run / FILE
    return _read(path) if path.is_file() else None


def _write(path: Path, sweep: SweepTable) -> None:
    columns = ["member", "label", *sweep.keys, "method", *NUMBERS]
    columns += [ATTRIBUTE + name for name in sweep.attributes] + ["error"]
    # Types of the swept settings are those of their values.
    arrays = [
        pa.array([row.get(name) for row in sweep.rows], _type_of(name, sweep)) for name in columns
    ]
    table = pa.table(arrays, names=columns)
    meta = {"inputs": sweep.inputs, "keys": sweep.keys, "attributes": sweep.attributes}
    table = table.replace_schema_metadata({META: json.dumps(meta).encode()})
    temporary = path.with_name(f"{path.name}.tmp")
    parquet.write_table(table, temporary)
    commit_file(temporary, path)


def _type_of(name: str, sweep: SweepTable) -> pa.DataType | None:
    if name in sweep.keys:
        return None
    if name.startswith(ATTRIBUTE):
        return pa.float64()
    return {"member": pa.int64(), **NUMBERS}.get(name, pa.string())


def _read(path: Path) -> SweepTable:
    try:
        table = parquet.read_table(path)
        meta = json.loads((table.schema.metadata or {})[META])
        rows = table.to_pylist()
        return SweepTable(meta["inputs"], tuple(meta["keys"]), tuple(meta["attributes"]), rows)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run micro-rm sweep") from error
