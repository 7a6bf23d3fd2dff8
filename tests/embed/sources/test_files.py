"""Rows of a file with their numbers; an unreadable row is a refusal, a damaged file an error."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from micro_rm.embed.sources.files import read_rows
from micro_rm.embed.sources.pair import DataError, Refusal

ROWS: list[dict[str, Any]] = [
    {"prompt": "a\u00e9\u2028b", "n": 1, "turns": [{"role": "user", "content": "x"}]},
    {"prompt": "c", "n": None, "turns": []},
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_rows_come_back_numbered_from_one(
    name: str, tmp_path: Path, write_rows: Callable[..., str]
) -> None:
    path = write_rows(tmp_path / name, ROWS)
    assert list(read_rows(path)) == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'\n{"a": 1}\r\n   \n{"a": 2}', [(2, {"a": 1}), (4, {"a": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b"", []),
    ],
)
def test_row_numbers_are_line_numbers(content: bytes, rows: list[Any], tmp_path: Path) -> None:
    """Blank lines have a number and no row; a byte order mark is no part of the first row."""
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert list(read_rows(str(plain))) == list(read_rows(str(packed))) == rows


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "not JSON: "),
        (b'{"a": 1} {"a": 2}', "not JSON: "),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 at byte 0; it seems to be UTF-16"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b"[" * 100_000, "not JSON: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON: "),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_between_good_ones(
    line: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    first, second, third = read_rows(str(path))
    assert (first, third) == ((1, {"a": 1}), (3, {"a": 3}))
    refusal = second[1]
    assert isinstance(refusal, Refusal)
    assert (second[0], refusal.row, refusal.field) == (2, 2, "")
    assert refusal.reason.startswith(reason)
    assert Path(refusal.file).name == "rows.jsonl"


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "folder.jsonl"])
def test_a_missing_file_is_named_with_a_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=rf"{name}: no such file; .*--data\.train"):
        list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.zip"])
def test_another_suffix_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"expected a file ending in \.jsonl, \.jsonl\.gz"):
        list(read_rows(str(tmp_path / name)))


def packed_rows() -> bytearray:
    numbers = random.Random(0)
    lines = (json.dumps({"a": numbers.random()}) + "\n" for _ in range(2000))
    return bytearray(gzip.compress("".join(lines).encode()))


def flipped(content: bytearray, start: int, stop: int) -> bytes:
    content[start:stop] = bytes(byte ^ 0xFF for byte in content[start:stop])
    return bytes(content)


@pytest.mark.parametrize(
    "content", [packed_rows()[:-20], flipped(packed_rows(), 6000, 6400), b'{"a": 1}\n']
)
def test_a_gzip_file_that_is_cut_off_or_damaged_or_none_is_called_damaged(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz.*damaged gzip file"):
        list(read_rows(str(path)))


def test_a_parquet_file_of_several_row_groups_is_numbered_through(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"a": number} for number in range(25)])
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=4)
    result = list(read_rows(str(tmp_path / "rows.parquet")))
    assert result == [(number + 1, {"a": number}) for number in range(25)]


def test_a_parquet_file_that_is_none_or_damaged_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text('{"a": 1}\n' * 100)
    with pytest.raises(DataError, match=r"rows\.parquet: not a Parquet file"):
        list(read_rows(str(path)))
    table = pyarrow.Table.from_pylist([{"a": f"text {number} " * 20} for number in range(500)])
    parquet.write_table(table, path, compression="snappy")
    content = bytearray(path.read_bytes())
    path.write_bytes(flipped(content, 20, 400))
    with pytest.raises(DataError, match=r"rows\.parquet: damaged after row 0"):
        list(read_rows(str(path)))
