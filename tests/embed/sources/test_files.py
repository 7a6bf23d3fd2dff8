"""Rows of a file with their numbers; an unreadable row is a refusal, a damaged file an error."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_row_numbers_are_line_numbers(suffix: str, tmp_path: Path) -> None:
    data = b'\n{"a": 1}\r\n   \n{"a": 2}'
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert list(read_rows(str(path))) == [(2, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: "),
        (b"hello", "not JSON: "),
        (b'{"a": 1} {"a": 2}', "not JSON: "),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'"text"', "expected a JSON object, found str"),
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


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_a_missing_file_is_named_with_a_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: no such file; .*--data\.train"):
        list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows", "rows.jsonl.zip"])
def test_another_suffix_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"expected a file ending in \.jsonl, \.jsonl\.gz"):
        list(read_rows(str(tmp_path / name)))


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(str(tmp_path / "rows.jsonl")))


def test_a_truncated_gzip_file_is_called_damaged(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"a": number}) + "\n" for number in range(1000))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-20])
    with pytest.raises(DataError, match="damaged gzip file"):
        list(read_rows(str(path)))


def test_a_gzip_file_that_is_damaged_inside_is_called_damaged(tmp_path: Path) -> None:
    numbers = random.Random(0)
    lines = "".join(json.dumps({"a": numbers.random()}) + "\n" for _ in range(2000))
    content = bytearray(gzip.compress(lines.encode()))
    content[6000:6400] = bytes(byte ^ 0xFF for byte in content[6000:6400])
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged gzip file"):
        list(read_rows(str(path)))


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    assert list(read_rows(str(path))) == [(1, {"a": 1}), (2, {"a": 2})]


def test_a_file_that_is_no_gzip_file_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="damaged gzip file"):
        list(read_rows(str(path)))


def test_a_file_that_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text('{"a": 1}\n' * 100)
    with pytest.raises(DataError, match=r"rows\.parquet: not a Parquet file"):
        list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_an_empty_file_has_no_rows(
    name: str, tmp_path: Path, write_rows: Callable[..., str]
) -> None:
    assert list(read_rows(write_rows(tmp_path / name, []))) == []


def test_a_parquet_file_of_several_row_groups_is_numbered_through(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{"a": number} for number in range(25)])
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=4)
    result = list(read_rows(str(tmp_path / "rows.parquet")))
    assert result == [(number + 1, {"a": number}) for number in range(25)]


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_pylist([{"a": f"text {number} " * 20} for number in range(500)])
    parquet.write_table(table, path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet: damaged after row 0"):
        list(read_rows(str(path)))
