"""Checksums of the files of a run directory, which ``record.json`` keeps.

After each stage the checksums of the files that it has written are updated, and only these. So a
file that is damaged or edited between two stages still differs from its checksum later on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "record.json"
# The files that stages write; other files in a run directory are left to its owner.
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
PARTS = ("sweep/*.parquet", "seeds/*/model.*")
Entries = dict[str, dict[str, Any]]  # per file name, its "bytes" and "sha256"
Stats = dict[str, tuple[int, int]]  # per file name, its size and time of modification in ns


def file_stats(run: Path) -> Stats:
    """Size and time of modification of every file of a run that exists."""
    parts = [path for pattern in PARTS for path in sorted(run.glob(pattern))]
    paths = [run / name for name in NAMES] + parts
    stats = {str(path.relative_to(run)): path.stat() for path in paths if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def update_entries(entries: Mapping[str, Any], run: Path, before: Stats) -> Entries:
    """Update a record's entries after a stage: new checksums for the files that it has written.

    Args:
        entries: The entries of the record so far.
        run: The run directory.
        before: ``file_stats`` of the directory when the stage began.
    """
    after = file_stats(run)
    # A file that the stage removed loses its entry; one that was missing before keeps it, so that
    # it is reported as missing.
    updated = {name: entries[name] for name in entries if name in after or name not in before}
    for name, stat in after.items():
        if name not in updated or stat != before.get(name):
            updated[name] = file_entry(run / name)
    return dict(sorted(updated.items()))


def file_entry(path: Path) -> dict[str, Any]:
    """Entry of a file in a record: its size in bytes and its sha256."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a record with a fresh ``checksum`` over all its other keys, in a canonical spelling."""
    plain = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def file_problem(run: Path, entries: Mapping[str, Any], name: str) -> str:
    """Describe how a file differs from its entry in the record; empty if it does not."""
    path = run / name
    if not path.is_file():
        return f"{path}: missing; run the same command again"
    listed, found = entries[name], file_entry(path)
    if found == listed:
        return ""
    return (
        f"{path}: bytes differ from {RECORD} (expected {listed.get('bytes')} bytes, sha256 "
        f"{str(listed.get('sha256'))[:16]}..., found {found['bytes']} bytes, {found['sha256'][:16]}"
        "...); run the same command again, which makes it anew"
    )


def verify_run(run: Path) -> tuple[int, list[str], list[str]]:
    """Verify the files of a run directory against its record.

    Returns:
        The number of files checked, the problems, and notes on what is unusual but no problem; each
        problem and note is a sentence.
    """
    path = run / RECORD
    again = "run the same command again"
    try:
        record = json.loads(path.read_text("utf-8"))
        files = record["files"]
        sound = record["checksum"] == with_checksum(record)["checksum"] and isinstance(files, dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        return 0, [f"{path}: damaged, or of micro-rm before 0.2 ({reason}); {again}"], []
    if not sound:
        return 0, [f"{path}: its checksum is not that of its content; {again}"], []
    notes = []
    if "running" in record:
        notes.append(f"{run}: stage {record['running']} was interrupted or is at work; {again}")
    problems = [problem for name in files if (problem := file_problem(run, files, name))]
    for name in file_stats(run):
        if name not in files:
            problems.append(f"{run / name}: not in {RECORD}, no finished stage wrote it; {again}")
    return len(files), problems, notes
