"""The quarantine of a data set: every refusal with its row, to be read, corrected and retried.

It holds texts of the data. Who must not pass these on must not pass on the quarantine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cache.files import replace_file
from .sources.corrections import Fixes
from .sources.files import raw_rows
from .sources.pair import Refusal, content_id


def quarantine_path(store: Path, name: str) -> Path:
    """Where the quarantine of a data set lies."""
    return store / "quarantine" / f"{name}.jsonl"


def write_quarantine(
    store: Path, name: str, refusals: Sequence[Refusal], fixes: Fixes | None = None
) -> Path:
    """Write every refusal as one JSON line, per file in the order of its rows.

    ``fixes`` are the corrected rows that were read. An empty file says that nothing was refused.
    """
    path = quarantine_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        for file in dict.fromkeys(refusal.file for refusal in refusals):
            own = sorted(
                (item for item in refusals if item.file == file), key=lambda item: item.row
            )
            for refusal, raw in _with_raws(file, own, fixes or {}):
                record = asdict(refusal) | {"raw": raw, "raw_id": content_id(raw)}
                stream.write(json.dumps(record, ensure_ascii=True) + "\n")
    replace_file(store, f"quarantine/{path.name}", temporary)
    return path


def _with_raws(file: str, refusals: list[Refusal], fixes: Fixes) -> Iterator[tuple[Refusal, Any]]:
    """Refusals of one file in the order of its rows, each with its row; None where it is unknown.

    Rows of a hub are not fetched again.
    """
    waiting = iter(refusals)
    refusal = next(waiting, None)
    wanted = {item.row for item in refusals}
    rows = raw_rows(file, wanted) if Path(file).is_file() else iter(())
    for number, raw in rows:
        raw = fixes.get((file, number), raw)
        while refusal is not None and refusal.row <= number:
            yield refusal, raw if refusal.row == number else None
            refusal = next(waiting, None)
    while refusal is not None:
        yield refusal, fixes.get((file, refusal.row))
        refusal = next(waiting, None)
