"""Stream the rows of JSON lines and Parquet files; an unreadable row becomes a refusal."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .pair import DataError, Refusal, short_list, short_repr

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
# A single row group may hold the whole file, so Parquet is read in small batches: bytes that are
# buffered and rows that are decoded at a time.
PARQUET_BUFFER = 1 << 20
PARQUET_ROWS = 256
# Bytes. A longer line is skipped in pieces and refused, so not even a gzip bomb takes more memory.
LINE_LIMIT = 1 << 26
# Characters. A longer row is not copied into a quarantine file.
RAW_LIMIT = 1 << 20


def require_data_file(path: str) -> None:
    """Raise ``DataError`` if the file does not exist or its suffix is not in ``SUFFIXES``."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an existing one with --data.train/--data.test")
    if not path.endswith(SUFFIXES):
        raise DataError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")


def read_rows(path: str) -> Iterator[tuple[int, Row | Refusal]]:
    """Yield ``(row number from 1, row)``; a row that cannot be decoded is yielded as a refusal.

    The row number of JSON lines is the line number, blank lines included. Raises ``DataError`` for
    a file that is missing, or damaged as a whole.
    """
    require_data_file(path)
    return _parquet_rows(Path(path)) if path.endswith(".parquet") else _json_rows(Path(path))


def _json_rows(file: Path) -> Iterator[tuple[int, Row | Refusal]]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            for number, line in enumerate(_lines(stream), start=1):
                if isinstance(line, int):
                    reason = f"a line of {line:,} bytes, at most {LINE_LIMIT:,} are read"
                    yield number, Refusal(number, "", reason, str(file))
                elif line.strip():
                    yield number, parse_line(number, line, str(file))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{file}: damaged gzip file ({error}); copy or download it again"
        ) from error


def raw_rows(path: str, wanted: set[int]) -> Iterator[tuple[int, Any]]:
    """Yield some rows of a file by number, as JSON values that a quarantine file can hold.

    A row is an object, or text if it is not an object; a row that is too long is None.
    """
    if path.endswith(".parquet"):
        for number, row in _parquet_rows(Path(path)):
            if number in wanted:
                yield (
                    number,
                    None if isinstance(row, Refusal) else _raw(json.dumps(row, default=str)),
                )
        return
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if number in wanted:
                text = None if isinstance(line, int) else line.decode("utf-8", "backslashreplace")
                yield number, None if text is None else _raw(text)


def _raw(text: str) -> Any:
    """A row as a value that JSON can hold."""
    if len(text) > RAW_LIMIT:
        return None
    row = parse_line(0, text.encode("utf-8", "backslashreplace"), "")
    try:
        json.dumps(row, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a refusal, or NaN or infinity
        return text.strip()
    return row


def _lines(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | int]:
    """Yield the lines of a stream; for a line that is too long, only its number of bytes."""
    while line := stream.readline(LINE_LIMIT + 1):
        size = len(line)
        if size <= LINE_LIMIT:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LINE_LIMIT)
            size += len(line)
        yield size


def parse_line(number: int, line: bytes, name: str) -> Row | Refusal:
    """The JSON object of a line, or a refusal that says why there is none."""
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        wide = line.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in line[:4]
        hint = "; it seems to be UTF-16: convert the file, such as with iconv" if wide else ""
        return Refusal(number, "", f"not UTF-8 at byte {error.start}{hint}", name)
    except DuplicateKey as error:
        return Refusal(number, str(error), "the key occurs twice in one object", name)
    except (ValueError, RecursionError) as error:
        return Refusal(number, "", f"not JSON: {error}", name)
    if not isinstance(row, dict):
        return Refusal(number, "", f"expected a JSON object, found {type(row).__name__}", name)
    return row


class DuplicateKey(Exception):
    """A JSON object has a key twice, so its value is ambiguous; ``json`` would keep the last."""


def _unique_keys(items: list[tuple[str, Any]]) -> Row:
    row = dict(items)
    if len(row) < len(items):
        names = [name for name, _ in items]
        raise DuplicateKey(
            short_repr(next(name for name in names if names.count(name) > 1)).strip("'")
        )
    return row


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row | Refusal]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file}: not a Parquet file ({error})") from error
    number, names = 0, table.schema_arrow.names
    with table:
        if len(set(names)) < len(names):
            raise DataError(
                f"{file}: two columns have the same name ({short_list(names)}); rename one"
            )
        try:
            for batch in table.iter_batches(PARQUET_ROWS, use_threads=False):
                for row in _batch_rows(batch, number, str(file)):
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: damaged after row {number} ({error})") from error


def _batch_rows(batch: Any, offset: int, name: str) -> Iterator[Row | Refusal]:
    """Rows of a batch whose first row has the number ``offset`` + 1.

    A batch is converted at once; only if a value cannot be represented in Python, row by row.
    """
    with suppress(ValueError, OverflowError):
        yield from batch.to_pylist()
        return
    for index in range(len(batch)):
        try:
            (row,) = batch.slice(index, 1).to_pylist()
        except (ValueError, OverflowError) as error:
            yield Refusal(
                offset + index + 1, "", f"unreadable value: {short_repr(str(error))}", name
            )
        else:
            yield row
