"""The files of a run directory with their checksums: what ``record.json`` vouches for.

A stage lists the files that it has written. What changes between two stages is found: it keeps the
checksum that it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "record.json"
NAMES = (
    "model.safetensors",
    "model.json",
    "metrics.jsonl",
    "predictions.parquet",
    "report.json",
    "report.html",
    "studies.json",
    "sweep.parquet",
    "sweep.html",
)
PARTS = "sweep/*.parquet"
Sums = dict[str, dict[str, Any]]  # name to bytes and sha256
Stats = dict[str, tuple[int, int]]


def stats_of(run: Path) -> Stats:
    """Size and time of change of every file of a run that is there."""
    found = [run / name for name in NAMES] + sorted(run.glob(PARTS))
    stats = {str(path.relative_to(run)): path.stat() for path in found if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def updated(known: Mapping[str, Any], run: Path, before: Stats) -> Sums:
    """The checksums after a stage: anew for what it has written, as they were for the rest.

    ``before`` is what ``stats_of`` said when the stage began.
    """
    after = stats_of(run)
    sums = {name: known[name] for name in known if name in after or name not in before}
    for name, stat in after.items():
        if name not in sums or stat != before.get(name):
            sums[name] = sum_of(run / name)
    return dict(sorted(sums.items()))


def sum_of(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record with a checksum of its own content; white space does not count."""
    plain = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def file_problem(run: Path, known: Mapping[str, Any], name: str) -> str:
    """What is wrong with a file of a run; empty if it is what the record lists."""
    path = run / name
    if not path.is_file():
        return f"{path}: missing; run the same command again"
    listed, found = known[name], sum_of(path)
    if found == listed:
        return ""
    return (
        f"{path}: bytes differ from {RECORD} (expected {listed.get('bytes')} bytes, sha256 "
        f"{str(listed.get('sha256'))[:16]}..., found {found['bytes']} bytes, {found['sha256'][:16]}"
        "...); run the same command again, which makes it anew"
    )


def verify_run(run: Path) -> tuple[int, list[str], list[str]]:
    """Files checked, problems and notes of a run directory."""
    path = run / RECORD
    again = "run the same command again"
    try:
        record = json.loads(path.read_text("utf-8"))
        files = record["files"]
        sound = record["checksum"] == seal(record)["checksum"] and isinstance(files, dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        return 0, [f"{path}: damaged, or of micro-rm before 0.2 ({reason}); {again}"], []
    if not sound:
        return 0, [f"{path}: its checksum is not that of its content; {again}"], []
    notes = []
    if "running" in record:
        notes.append(f"{run}: stage {record['running']} was interrupted or is at work; {again}")
    problems = [problem for name in files if (problem := file_problem(run, files, name))]
    for name in stats_of(run):
        if name not in files:
            problems.append(f"{run / name}: not in {RECORD}, no finished stage wrote it; {again}")
    return len(files), problems, notes
