"""A source is read anew at every pass, row by row; its account describes the last complete one."""

from __future__ import annotations

import gc
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.configs.data import SyntheticConfig
from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import PairSource, jsonl, open_pairs
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.pair import DataError

from .conftest import Row

OpenRows = Callable[..., PairSource]


def explicit(number: int, size: int = 0) -> Row:
    texts = {name: f"{name} {number}" + " x" * (size // 6) for name in ("chosen", "rejected")}
    return {"prompt": f"p{number // 2}" + " x" * (size // 6), "attribute": "brief"} | texts


def rated(number: int, size: int = 0) -> Row:
    texts = {"prompt": f"p{number // 2}", "response": f"r{number}" + " x" * (size // 2)}
    return texts | {"help": number % 3, "brief": number // 2 % 2}


FILES: dict[str, list[Row | str]] = {
    "explicit": [explicit(0), "{", explicit(1), {"prompt": "a"}],
    "rated": [rated(n) for n in range(9)],
    "mixed": [
        rated(0),
        explicit(1),
        "{",
        rated(1),
        {"prompt": "p", "response": 3, "help": 1},
        rated(5),
        explicit(2),
    ],
}


@pytest.mark.parametrize("pairing", ["adjacent", "all"])
@pytest.mark.parametrize("content", FILES)
def test_every_pass_gives_the_same_pairs_and_an_equal_account(
    content: str, pairing: str, open_rows: OpenRows
) -> None:
    source = open_rows(FILES[content], pairing=pairing)
    assert source.account == Account()
    first, before = list(source), source.account
    assert list(source) == first
    assert source.account == before and source.account is not before
    assert (before.pairs, before.rows) == (len(first), len(FILES[content]))
    assert before.refusals


def test_the_synthetic_source_can_be_read_again() -> None:
    source = open_pairs(DataConfig(source="synthetic", synthetic=SyntheticConfig(prompts=12)))
    first, before = list(source), source.account
    assert list(source) == first
    assert source.account == before == Account(pairs=len(first), rows=len(first))


@pytest.mark.long
@pytest.mark.parametrize(
    ("row", "suffix"), [(explicit, ".jsonl.gz"), (explicit, ".parquet"), (rated, ".jsonl")]
)
def test_an_abandoned_pass_does_no_harm(
    row: Callable[[int], Row], suffix: str, open_rows: OpenRows
) -> None:
    """Neither to the account nor to other passes, and it leaves no file open."""
    rows = [row(n) for n in range(600)]
    source = open_rows(rows, suffix, test=rows)
    pairs, before = list(source), source.account
    abandoned, other = iter(source), iter(source)
    assert [next(abandoned), next(other), next(abandoned)] == [pairs[0], pairs[0], pairs[1]]
    assert source.account is before
    del abandoned
    gc.collect()  # a file left open would warn now, which is an error
    assert [pairs[0], *other] == pairs == list(source)
    assert source.account == before


def test_pairs_come_before_the_rest_of_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    parts = [
        gzip.compress("".join(json.dumps(explicit(n)) + "\n" for n in numbers).encode())
        for numbers in (range(5), range(5, 5000))
    ]
    path.write_bytes(parts[0] + parts[1][:-100])
    source = open_pairs(DataConfig(train=str(path)))
    stream = iter(source)
    assert next(stream).chosen == "chosen 0"
    with pytest.raises(DataError, match="damaged gzip file"):
        list(stream)
    assert source.account == Account()


@pytest.mark.long
@pytest.mark.parametrize(
    ("row", "suffix"), [(explicit, ".jsonl.gz"), (explicit, ".parquet"), (rated, ".jsonl")]
)
def test_a_pass_holds_a_few_rows_only(
    row: Callable[[int, int], Row], suffix: str, open_rows: OpenRows
) -> None:
    """Of a file with 5 MB of text."""
    source = open_rows([row(n, 1000) for n in range(5000)], suffix)
    next(iter(source))  # whatever is imported or compiled on the way
    assert _peak(lambda: sum(1 for _ in source)) < 1e6
    assert source.account.rows == 5000


@pytest.mark.long
def test_a_summary_keeps_no_texts(open_rows: OpenRows) -> None:
    """Digests and numbers, about 400 bytes a pair, of 6 kB texts."""
    source = open_rows([explicit(n, 6000) for n in range(5000)])
    assert _peak(lambda: summarise(source)) < 4e6


def _peak(run: Callable[[], object]) -> int:
    """Bytes that Python held at most while it ran, beyond those held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# Errors: at once where they do not need the data, else at the end of the pass


def test_contexts_are_read_once_and_before_the_data(tmp_path: Path, open_rows: OpenRows) -> None:
    contexts = tmp_path / "contexts.json"
    rows = [explicit(n) for n in range(3)]
    with pytest.raises(DataError, match=r"contexts\.json: no such file"):
        open_rows(rows, contexts=str(contexts))
    contexts.write_text(json.dumps({"brief": ["be brief"]}))
    source = open_rows(rows, contexts=str(contexts))
    contexts.unlink()
    for _ in range(2):
        assert [pair.context for pair in source] == ["be brief"] * 3


def test_contexts_for_no_attribute_of_the_data_end_the_pass(
    tmp_path: Path, open_rows: OpenRows
) -> None:
    contexts = tmp_path / "contexts.json"
    contexts.write_text(json.dumps({"brevity": ["be brief"]}))
    rows = [explicit(0), explicit(1) | {"attribute": "long"}]
    stream = iter(open_rows(rows, contexts=str(contexts)))
    assert [next(stream).context for _ in rows] == [None] * 2
    with pytest.raises(
        DataError, match="contexts for brevity, the data have the attributes brief, long;"
    ):
        next(stream)


def test_a_pass_without_any_pair_fails_with_its_account(open_rows: OpenRows) -> None:
    source = open_rows([rated(0) | {"help": 1}, rated(1) | {"help": 1}, "{"])
    for _ in range(2):
        with pytest.raises(DataError, match=r"no usable pair in 3 rows \(row 3.*2 ratings are tie"):
            list(source)
        assert (source.account.pairs, source.account.rows) == (0, 3)


# Ratings


@pytest.mark.parametrize(
    ("number", "suffix", "expected"),
    [(8, ".jsonl", {"help", "id"}), (10, ".jsonl", {"help"}), (10, ".parquet", {"help"})],
)
def test_a_column_of_row_numbers_is_recognised_from_the_whole_file(
    number: int, suffix: str, expected: set[str], open_rows: OpenRows
) -> None:
    rows = [
        {"prompt": f"p{n // 2}", "response": f"r{n}", "help": n % 2, "id": 7 * n}
        for n in range(number)
    ]
    assert {pair.attribute for pair in open_rows(rows, suffix)} == expected


def test_the_last_row_may_decide_which_columns_are_ratings(open_rows: OpenRows) -> None:
    """A repeated number makes a rating of what looked like a row number; a column with as many
    fractions as integers is none."""
    rows = [rated(n) | {"late": n, "share": n % 3 if n < 10 else 0.5} for n in range(19)]
    source = open_rows([*rows, rated(19) | {"late": 4, "share": 0.5}])
    assert [name for name, *_ in next(iter(source)).ratings] == ["help", "brief", "late"]
    assert {pair.attribute for pair in source} == {"help", "late"}


@pytest.mark.parametrize(
    ("content", "settings", "readings"),
    [("rated", {}, 2), ("rated", {"attributes": ["help"]}, 1), ("explicit", {}, 1)],
)
def test_a_file_is_read_twice_only_to_find_its_rating_columns(
    content: str,
    settings: dict[str, Any],
    readings: int,
    open_rows: OpenRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    original = jsonl.read_rows
    monkeypatch.setattr(jsonl, "read_rows", lambda path: opened.append(path) or original(path))
    rows = [row for row in FILES[content] if not isinstance(row, str)]
    source = open_rows([row | {"attribute": "help"} for row in rows], **settings)
    list(source)
    assert len(opened) == readings


@pytest.mark.parametrize(("pairing", "places"), [("adjacent", [2, 1, 7]), ("all", [2, 7, 1])])
def test_shapes_may_be_mixed_in_one_file(
    pairing: str, places: list[int], open_rows: OpenRows
) -> None:
    """Pairs come in the order of the file; rated rows find each other across other rows."""
    source = open_rows(FILES["mixed"], pairing=pairing)
    pairs = list(source)
    assert [pair.row for pair in pairs] == places
    compared = pairs[places.index(1)]
    assert (compared.attribute, compared.chosen, compared.rejected) == ("help", "r1", "r0")
    assert source.account.ties == {"brief": 1}
    assert [(item.row, item.field) for item in source.account.refusals] == [
        (3, ""),
        (5, "response"),
        (6, "response"),
    ]
