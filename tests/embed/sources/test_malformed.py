"""Malformed rows of every kind are counted refusals, and all valid rows are kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import files as data_files
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.conversation import TEXT_LIMIT
from micro_rm.embed.sources.files import read_rows
from micro_rm.embed.sources.pair import DataError, Refusal
from micro_rm.tools.stress.malformed import Line, check_file, check_rated_file, files, rated_files

GOOD: dict[str, Any] = {"prompt": "a", "chosen": "x", "rejected": "y"}
FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FEW
@given(files())
def test_rows_are_pairs_or_refusals_whatever_stands_in_the_file(
    tmp_path: Path, lines: list[Line]
) -> None:
    check_file(tmp_path / "rows.jsonl", lines)


@FEW
@given(rated_files())
def test_rated_rows_are_compared_or_refused_whatever_stands_in_the_file(
    tmp_path: Path, lines: list[Line]
) -> None:
    check_rated_file(tmp_path / "rows.jsonl", lines)


def refusals_of(path: Path, **settings: Any) -> list[Refusal]:
    source = open_pairs(DataConfig(train=str(path), **settings))
    list(source)
    return source.account.refusals


def write_lines(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    content = b"\n".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_line_beyond_the_limit_is_refused_unread(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "LINE_LIMIT", 1000)
    long = json.dumps(GOOD | {"chosen": "x" * 5000}).encode()
    fits = json.dumps({"a": "x" * (1000 - len('{"a": ""}\n'))}).encode()
    path = write_lines(tmp_path / f"rows{suffix}", long, fits, GOOD, long)
    rows = list(read_rows(str(path)))
    assert [number for number, _ in rows] == [1, 2, 3, 4]
    assert isinstance(rows[1][1], dict) and rows[2][1] == GOOD
    for index in (0, 3):
        refusal = rows[index][1]
        assert isinstance(refusal, Refusal)
        size = len(long) + (index == 0)
        assert refusal.reason == f"a line of {size:,} bytes, at most 1,000 are read"


@pytest.mark.long
def test_a_gzip_bomb_takes_no_more_memory_than_a_line_may(tmp_path: Path) -> None:
    """300 MB of one line in 300 kB; resource.getrusage would see what other tests took."""
    import tracemalloc

    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(json.dumps(GOOD).encode() + b"\n")
        for _ in range(100):
            stream.write(b"[" * 3_000_000)
    tracemalloc.start()
    result = refusals_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(item.row, item.reason[:26]) for item in result] == [(2, "a line of 300,000,000 byte")]
    assert peak < 3.5 * data_files.LINE_LIMIT


def test_a_file_in_utf16_is_named_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n", "utf-16")
    with pytest.raises(DataError, match=r"row 1: +not UTF-8 at byte 0; it seems to be UTF-16"):
        refusals_of(path)


def test_a_text_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", GOOD, GOOD | {"chosen": "x" * (TEXT_LIMIT + 1)})
    (refusal,) = refusals_of(path)
    assert refusal.field == "chosen"
    assert refusal.reason == "text of 4,194,305 characters, at most 4,194,304 are read"


def test_labels_are_names_and_contexts_are_texts(tmp_path: Path) -> None:
    long = "n" * 1001
    rows = [GOOD | {name: long} for name in ("attribute", "user", "context")]
    result = refusals_of(write_lines(tmp_path / "rows.jsonl", *rows))
    assert [item.field for item in result] == ["attribute", "user"]
    assert result[0].reason == "a label of 1,001 characters, at most 1,000"


def test_one_wrong_rating_costs_its_row_and_not_the_column(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{number // 2}", "response": f"r{number}", "help": number % 2, "brief": 1}
        for number in range(6)
    ]
    rows[3]["help"] = float("nan")
    rows[4]["brief"] = "high"
    source = open_pairs(DataConfig(train=str(write_lines(tmp_path / "rows.jsonl", *rows))))
    pairs = list(source)
    assert [pair.attribute for pair in pairs] == ["help"]
    assert [(item.row, item.field) for item in source.account.refusals] == [
        (4, "help"),
        (5, "brief"),
        (3, "response"),
        (6, "response"),
    ]


@pytest.mark.parametrize("value", [1e31, -1e31, 10**31])
def test_numbers_that_32_bits_cannot_subtract_are_refused(value: float, tmp_path: Path) -> None:
    (refusal,) = refusals_of(write_lines(tmp_path / "rows.jsonl", GOOD, GOOD | {"margin": value}))
    assert refusal.field == "margin"
    assert refusal.reason.startswith("expected a number up to 1e+30, found ")


def test_a_key_that_stands_twice_is_refused_by_its_name(tmp_path: Path) -> None:
    twice = b'{"prompt": "a", "chosen": "x", "chosen": "z", "rejected": "y"}'
    (refusal,) = refusals_of(write_lines(tmp_path / "rows.jsonl", twice, GOOD))
    assert (refusal.field, refusal.reason) == ("chosen", "the key occurs twice in one object")


def test_labels_that_contradict_each_other_are_counted_and_kept(tmp_path: Path) -> None:
    """Of one person that is an error; of two it is what a mixture is for."""
    swapped = {"prompt": "a", "chosen": "y", "rejected": "x"}
    rows = [GOOD | {"user": "u"}, swapped | {"user": "u"}, swapped | {"user": "v"}]
    result = summarise(open_pairs(DataConfig(train=str(write_lines(tmp_path / "a.jsonl", *rows)))))
    assert (result["pairs"], result["contradictions"], result["self_contradictions"]) == (3, 3, 2)
    assert any("2 pairs are judged the other way" in text for text in result["warnings"])


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_columns_of_wrong_types_are_refusals(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b"], "chosen": [1, 2], "rejected": ["y", "z"]}
    with pytest.raises(DataError, match="row 1: chosen expected text, found int"):
        refusals_of(write_parquet(tmp_path / "rows.parquet", columns))


def test_a_parquet_value_that_python_cannot_hold_costs_its_row_only(tmp_path: Path) -> None:
    import pyarrow

    broken = pyarrow.array([b"x", b"\xff", b"z"]).view(pyarrow.string())
    columns = {"prompt": ["a", "b", "c"], "chosen": broken, "rejected": ["y", "y", "y"]}
    source = open_pairs(DataConfig(train=str(write_parquet(tmp_path / "rows.parquet", columns))))
    assert [pair.chosen for pair in source] == ["x", "z"]
    (refusal,) = source.account.refusals
    assert refusal.row == 2 and "unreadable value" in refusal.reason


def test_parquet_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns have the same name"):
        refusals_of(tmp_path / "rows.parquet")
