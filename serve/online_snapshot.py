"""A snapshot of everybody's state, so that a restart need not read the whole journal.

It names the line of the journal that it was taken after; one that does not fit is ignored, because
the journal alone says everything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ..cache.schema import commit_file, sync_directory

SNAPSHOT = "snapshot.json"


class Snapshot(NamedTuple):
    """State after the line that ends at byte ``end`` of the journal with this checksum."""

    end: int
    checksum: str
    number: int
    people: dict[str, Any]


def write_snapshot(
    directory: Path, end: int, checksum: str, number: int, people: dict[str, Any]
) -> None:
    """Replace the snapshot; the old one stays until the new one is whole."""
    body = json.dumps([end, checksum, number, people], allow_nan=False)
    temporary = directory / f"{SNAPSHOT}.tmp"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps({"sum": xxhash.xxh3_64_hexdigest(body.encode()), "body": body}))
    commit_file(temporary, directory / SNAPSHOT)


def read_snapshot(directory: Path, journal: Path) -> Snapshot | None:
    """The snapshot, None if there is none, it is damaged, or the journal is another one."""
    try:
        content = json.loads((directory / SNAPSHOT).read_text("utf-8"))
        if content["sum"] != xxhash.xxh3_64_hexdigest(content["body"].encode()):
            return None
        found = Snapshot(*json.loads(content["body"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if _line_ending_at(journal, found.end, found.checksum) else None


def remove_snapshot(directory: Path) -> None:
    """So that nothing is left of those whom it holds."""
    for name in (SNAPSHOT, f"{SNAPSHOT}.tmp"):
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)


def _line_ending_at(journal: Path, end: int, checksum: str) -> bool:
    """Whether a line with this checksum ends there. The checksum covers all lines before it."""
    reach = 2**20
    with open(journal, "rb") as file:
        file.seek(max(end - reach, 0))
        data = file.read(min(end, reach))
    start = data.rfind(b"\n", 0, max(len(data) - 1, 0)) + 1
    return len(data) == min(end, reach) and f'"checksum":"{checksum}"'.encode() in data[start:]
