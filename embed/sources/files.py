"""Rows of a JSON-lines or Parquet file with their numbers; an unreadable row becomes a refusal."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .pair import DataError, Refusal

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
# A row group may hold the whole file, so neither it nor more than these rows is held at once.
PARQUET_BUFFER = 1 << 20
PARQUET_ROWS = 256


def require_data_file(path: str) -> None:
    """Raise ``DataError`` if there is no such file or its name does not tell a known format."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an existing one with --data.train/--data.test")
    if not path.endswith(SUFFIXES):
        raise DataError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")


def read_rows(path: str) -> Iterator[tuple[int, Row | Refusal]]:
    """Stream ``(row number from 1, row)``; a row that cannot be decoded is yielded as a refusal."""
    require_data_file(path)
    return _parquet_rows(Path(path)) if path.endswith(".parquet") else _json_rows(Path(path))


def _json_rows(file: Path) -> Iterator[tuple[int, Row | Refusal]]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _parse_line(number, line, str(file))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{file}: damaged gzip file ({error}); copy or download it again"
        ) from error


def _parse_line(number: int, line: bytes, name: str) -> Row | Refusal:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Refusal(number, "", f"not UTF-8 at byte {error.start}", name)
    except (ValueError, RecursionError) as error:
        return Refusal(number, "", f"not JSON: {error}", name)
    if not isinstance(row, dict):
        return Refusal(number, "", f"expected a JSON object, found {type(row).__name__}", name)
    return row


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row | Refusal]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file}: not a Parquet file ({error})") from error
    number = 0
    with table:
        try:
            for batch in table.iter_batches(PARQUET_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: damaged behind row {number} ({error})") from error
