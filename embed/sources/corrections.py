"""Read rows in the version that somebody corrected in a copy of a quarantine file.

A record of a quarantine file is ``{"row", "field", "reason", "file", "raw", "raw_id"}``. ``raw`` is
the refused row: an object, or the text of the line if it is not an object, or null if it is too
long to keep. ``raw_id`` is the hash of the original ``raw``, which shows whether it was edited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import Row, parse_line
from .pair import DataError, Refusal, content_id

RowKey = tuple[str, int]  # file and row number
Corrections = Mapping[RowKey, Any]


def read_corrections(path: str | None) -> dict[RowKey, Any]:
    """Read the edited rows of a quarantine file, by file and row number; none if ``path`` is None.

    Raises ``DataError`` if the file is missing or is no quarantine file, or if it corrects a row in
    two different ways.
    """
    if path is None:
        return {}
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an edited copy of a quarantine file")
    corrections: dict[RowKey, Any] = {}
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            record = parse_line(number, line, path) if line.strip() else None
            if isinstance(record, Refusal):
                raise DataError(f"{path}: line {number} is {record.reason}; restore it")
            if record is None or "raw_id" not in record:
                continue
            key = _row_key(record, f"{path}: line {number}")
            raw = record.get("raw")
            if content_id(raw) == record["raw_id"]:
                continue
            if key in corrections and corrections[key] != raw:
                raise DataError(
                    f"{path}: line {number} corrects row {key[1]} of {key[0]} in another way "
                    "than an earlier line; make them alike or remove one"
                )
            corrections[key] = raw
    return corrections


def apply_corrections(
    rows: Iterator[tuple[int, Row | Refusal]], file: str, corrections: Corrections
) -> Iterator[tuple[int, Row | Refusal]]:
    """The rows of a file, with those that have a correction replaced by it."""
    if not corrections:
        return rows
    return ((number, _corrected_row(number, row, file, corrections)) for number, row in rows)


def _corrected_row(
    number: int, row: Row | Refusal, file: str, corrections: Corrections
) -> Row | Refusal:
    if (file, number) not in corrections:
        return row
    raw = corrections[file, number]
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return parse_line(number, text.encode("utf-8", "backslashreplace"), file)


def _row_key(record: Row, where: str) -> RowKey:
    file, row = record.get("file"), record.get("row")
    if not isinstance(file, str) or not isinstance(row, int):
        raise DataError(f"{where}: expected a record with file and row; restore it from a copy")
    return file, row
