"""Malformed rows of every kind are counted refusals, and all valid rows are kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from pyarrow import parquet

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import PairSource, open_pairs
from micro_rm.embed.sources import files as data_files
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.conversation import TEXT_LIMIT
from micro_rm.embed.sources.files import read_rows
from micro_rm.embed.sources.pair import DataError, Refusal
from micro_rm.tools.stress.malformed import Line, check_file, check_rated_file, files, rated_files

from .conftest import GOOD, Load

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


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_line_beyond_the_limit_is_refused_unread(
    suffix: str, tmp_path: Path, write_rows: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "LINE_LIMIT", 1000)
    long, fits = GOOD | {"chosen": "x" * 5000}, {"a": "x" * (1000 - len('{"a": ""}\n'))}
    rows = list(read_rows(write_rows(tmp_path / f"rows{suffix}", [long, fits, GOOD])))
    size = len(json.dumps(long)) + 1
    (number, refusal), *others = rows
    assert isinstance(refusal, Refusal) and number == 1
    assert refusal.reason == f"a line of {size:,} bytes, at most 1,000 are read"
    assert others == [(2, fits), (3, GOOD)]


@pytest.mark.long
def test_a_gzip_bomb_takes_no_more_memory_than_a_line_may(tmp_path: Path) -> None:
    """300 MB of one line in 300 kB; resource.getrusage would see what other tests took."""
    import tracemalloc

    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(json.dumps(GOOD).encode() + b"\n")
        for _ in range(100):
            stream.write(b"[" * 3_000_000)
    source = open_pairs(DataConfig(train=str(path)))
    tracemalloc.start()
    list(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (refusal,) = source.account.refusals
    assert refusal.row == 2 and refusal.reason.startswith("a line of 300,000,000 byte")
    assert peak < 3.5 * data_files.LINE_LIMIT


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (
            {"chosen": "x" * (TEXT_LIMIT + 1)},
            "chosen",
            "text of 4,194,305 characters, at most 4,194,304 are read",
        ),
        ({"user": "n" * 1001}, "user", "a label of 1,001 characters, at most 1,000"),
        ({"margin": 1e31}, "margin", "expected a number up to 1e+30, found 1e+31"),
        ({"margin": -(10**31)}, "margin", "expected a number up to 1e+30, found -1e+31"),
    ],
)
def test_what_is_too_long_or_too_large_is_refused(
    change: dict[str, Any], field: str, reason: str, load: Load
) -> None:
    """A context is a text and no label: it may be longer."""
    at_limit = GOOD | {"context": "n" * 1001, "user": "n" * 1000, "margin": 1e30}
    _, account = load([at_limit, GOOD | change])
    assert [(item.row, item.field, item.reason) for item in account.refusals] == [
        (2, field, reason)
    ]


def test_one_wrong_rating_costs_its_row_and_not_the_column(load: Load) -> None:
    rows: list[Any] = [
        {"prompt": f"p{number // 2}", "response": f"r{number}", "help": number % 2, "brief": 1}
        for number in range(6)
    ]
    rows[3]["help"] = float("nan")
    rows[4]["brief"] = "high"
    pairs, account = load(rows)
    assert [pair.attribute for pair in pairs] == ["help"]
    assert [(item.row, item.field) for item in account.refusals] == [
        (4, "help"),
        (5, "brief"),
        (3, "response"),
        (6, "response"),
    ]


def test_a_key_that_stands_twice_is_refused_by_its_name(load: Load) -> None:
    _, account = load(['{"prompt": "a", "chosen": "x", "chosen": "z", "rejected": "y"}', GOOD])
    (refusal,) = account.refusals
    assert (refusal.field, refusal.reason) == ("chosen", "the key occurs twice in one object")


def test_labels_that_contradict_each_other_are_counted_and_kept(
    open_rows: Callable[..., PairSource],
) -> None:
    """Of one person that is an error; of two it is what a mixture is for."""
    swapped = {"prompt": "a", "chosen": "y", "rejected": "x"}
    rows = [GOOD | {"user": "u"}, swapped | {"user": "u"}, swapped | {"user": "v"}]
    result = summarise(open_rows(rows))
    assert (result["pairs"], result["contradictions"], result["self_contradictions"]) == (3, 3, 2)
    assert any("2 pairs are judged the other way" in text for text in result["warnings"])


def read_table(path: Path, table: Any) -> PairSource:
    parquet.write_table(table, path)
    return open_pairs(DataConfig(train=str(path)))


def test_parquet_columns_of_wrong_types_are_refusals(tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": ["a", "b"], "chosen": [1, 2], "rejected": ["y", "z"]})
    with pytest.raises(DataError, match="row 1: chosen expected text, found int"):
        list(read_table(tmp_path / "rows.parquet", table))


def test_a_parquet_value_that_python_cannot_hold_costs_its_row_only(tmp_path: Path) -> None:
    broken = pyarrow.array([b"x", b"\xff", b"z"]).view(pyarrow.string())
    table = pyarrow.table({"prompt": ["a", "b", "c"], "chosen": broken, "rejected": ["y"] * 3})
    source = read_table(tmp_path / "rows.parquet", table)
    assert [pair.chosen for pair in source] == ["x", "z"]
    (refusal,) = source.account.refusals
    assert refusal.row == 2 and "unreadable value" in refusal.reason


def test_parquet_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"])
    with pytest.raises(DataError, match="two columns have the same name"):
        list(read_table(tmp_path / "rows.parquet", table))
