"""Rows that somebody corrected in a copy of a quarantine file take the place of those refused.

A record of the quarantine is ``{"row", "field", "reason", "file", "raw", "raw_id"}``. ``raw`` is
the row itself: an object, or a line of text where it is none; null where it is too long to keep.
``raw_id`` tells whether somebody has changed it since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import Row, parse_line
from .pair import DataError, Refusal, content_id

Place = tuple[str, int]  # file and row
Fixes = Mapping[Place, Any]


def read_corrections(path: str | None) -> dict[Place, Any]:
    """The rows of an edited quarantine file that were changed, by file and row number.

    Raises ``DataError`` for a file that is no quarantine, and for two corrections of one row.
    """
    if path is None:
        return {}
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an edited copy of a quarantine file")
    fixes: dict[Place, Any] = {}
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            record = parse_line(number, line, path) if line.strip() else None
            if isinstance(record, Refusal):
                raise DataError(f"{path}: line {number} is {record.reason}; restore it")
            if record is None or "raw_id" not in record:
                continue
            place = _place(record, f"{path}: line {number}")
            raw = record.get("raw")
            if content_id(raw) == record["raw_id"]:
                continue
            if place in fixes and fixes[place] != raw:
                raise DataError(
                    f"{path}: line {number} corrects row {place[1]} of {place[0]} in another way "
                    "than an earlier line; make them alike or remove one"
                )
            fixes[place] = raw
    return fixes


def corrected(
    rows: Iterator[tuple[int, Row | Refusal]], file: str, fixes: Fixes
) -> Iterator[tuple[int, Row | Refusal]]:
    """The rows of a file, those that were corrected as they are now."""
    if not fixes:
        return rows
    return ((number, _fixed(number, row, file, fixes)) for number, row in rows)


def _fixed(number: int, row: Row | Refusal, file: str, fixes: Fixes) -> Row | Refusal:
    if (file, number) not in fixes:
        return row
    raw = fixes[file, number]
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return parse_line(number, text.encode("utf-8", "backslashreplace"), file)


def _place(record: Row, where: str) -> Place:
    file, row = record.get("file"), record.get("row")
    if not isinstance(file, str) or not isinstance(row, int):
        raise DataError(f"{where}: expected a record with file and row; restore it from a copy")
    return file, row
