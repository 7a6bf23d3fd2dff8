"""The quarantine of a data set: every refused row with the reason, to be corrected and retried.

A quarantine file contains texts of the data and is subject to the same terms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cache.files import replace_file
from .sources.corrections import Corrections
from .sources.files import raw_rows
from .sources.pair import Refusal, content_id


def quarantine_path(store: Path, name: str) -> Path:
    """The quarantine file of a data set."""
    return store / "quarantine" / f"{name}.jsonl"


def write_quarantine(
    store: Path, name: str, refusals: Sequence[Refusal], corrections: Corrections | None = None
) -> Path:
    """Write one JSON line per refusal, grouped by input file and sorted by row.

    ``corrections`` replace rows of the input files. If nothing was refused, the file is empty.
    """
    path = quarantine_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        for file in dict.fromkeys(refusal.file for refusal in refusals):
            in_file = sorted(
                (item for item in refusals if item.file == file), key=lambda item: item.row
            )
            for refusal, raw in _with_rows(file, in_file, corrections or {}):
                record = asdict(refusal) | {"raw": raw, "raw_id": content_id(raw)}
                stream.write(json.dumps(record, ensure_ascii=True) + "\n")
    replace_file(store, f"quarantine/{path.name}", temporary)
    return path


def _with_rows(
    file: str, refusals: list[Refusal], corrections: Corrections
) -> Iterator[tuple[Refusal, Any]]:
    """Pair the sorted refusals of one file with their rows.

    A row is None where the file no longer has it, or for data from the Hub, which are not
    downloaded again.
    """
    remaining = iter(refusals)
    refusal = next(remaining, None)
    refused_rows = {item.row for item in refusals}
    rows = raw_rows(file, refused_rows) if Path(file).is_file() else iter(())
    # Merge two sequences that are both sorted by row. A row may have several refusals.
    for number, raw in rows:
        raw = corrections.get((file, number), raw)
        while refusal is not None and refusal.row <= number:
            yield refusal, raw if refusal.row == number else None
            refusal = next(remaining, None)
    while refusal is not None:
        yield refusal, corrections.get((file, refusal.row))
        refusal = next(remaining, None)
