"""Rows that somebody corrected in a copy of the quarantine, as if they had been right at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.pairs import read_pairs
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, DataConfig
from micro_rm.embed.input_fingerprint import input_fingerprint
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.corrections import read_corrections
from micro_rm.embed.sources.files import RAW_LIMIT
from micro_rm.embed.sources.pair import DataError
from micro_rm.embed.stage import JobResult

from .test_nonfinite import by_key, job, resolved

Embed = Callable[..., JobResult]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]
Configure = Callable[..., Config]


def edited(store: Path, copy: Path, changes: dict[int, Any]) -> list[dict[str, Any]]:
    """Copy a quarantine with other rows; the records as they were."""
    lines = (store / "quarantine" / "rows.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    changed = [item | {"raw": changes.get(item["row"], item["raw"])} for item in records]
    copy.write_text("".join(json.dumps(item) + "\n" for item in changed), "utf-8")
    return records


def test_a_retry_gives_what_corrected_data_would_have_given(
    embed: Embed, configure: Configure, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """A wrong field, a broken line, a text that was too long, and one that stays wrong."""
    right = preference_rows(16)
    wrong: list[Any] = [dict(row) for row in right]
    wrong[2]["chosen"] = 7
    wrong[4] = '{"prompt": "broken'
    wrong[7]["rejected"] = "word " * 100
    wrong[9]["chosen"] = ""
    file = write_rows(tmp_path / "rows.jsonl.gz", wrong)
    store, copy = tmp_path / "store", tmp_path / "fixed.jsonl"
    embed("llama", file, store, max_length=120)
    records = edited(store, copy, {3: right[2], 5: json.dumps(right[4]), 8: right[7]})
    assert [(item["row"], item["field"]) for item in records] == [
        (3, "chosen"),
        (5, ""),
        (8, records[2]["field"]),
        (10, "chosen"),
    ]
    assert [item["raw"] for item in records] == [wrong[2], wrong[4], wrong[7], wrong[9]]
    assert len(read_pairs(store, "rows")) == 12

    data = DataConfig(name="rows", train=file, corrections=str(copy))
    config = configure("llama", file, store, data=data, max_length=120)
    account = job(config, retry=True).account
    assert account is not None
    assert (account["pairs"], account["refused"], account["corrected_rows"]) == (15, 1, 3)
    still = edited(store, tmp_path / "again.jsonl", {})
    assert [item["row"] for item in still] == [10]
    assert verify_store(store).problems == []

    wrong[2], wrong[4], wrong[7] = right[2], right[4], right[7]
    embed("llama", write_rows(tmp_path / "right.jsonl", wrong), tmp_path / "right", max_length=120)
    assert by_key(store).keys() == by_key(tmp_path / "right").keys()
    tables = [resolved(path, read_pairs(path, "rows")) for path in (store, tmp_path / "right")]
    assert tables[0] == tables[1]
    assert input_fingerprint(config) != input_fingerprint(
        replace(config, data=replace(data, corrections=None))
    )


GOOD = {"prompt": "a", "chosen": "x", "rejected": "y"}


def quarantine(path: Path, *records: dict[str, Any]) -> str:
    lines = [
        json.dumps({"row": 1, "file": "rows.jsonl", "raw": GOOD, "raw_id": "changed"} | record)
        for record in records
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_ratings_that_were_corrected_are_compared(write_rows: WriteRows, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": text, "help": 1} for text in "ab"]
    rows[1]["help"] = 10**40
    file = write_rows(tmp_path / "rows.jsonl", rows)
    fixed = {"file": file, "row": 2, "raw": rows[1] | {"help": 3}}
    copy = quarantine(tmp_path / "fixed.jsonl", fixed)
    (pair,) = open_pairs(DataConfig(train=file, corrections=copy))
    assert (pair.chosen, pair.margin, pair.file) == ("b", 2, file)


def test_a_corrected_row_may_be_wrong_again(write_rows: WriteRows, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}, GOOD])
    copy = quarantine(tmp_path / "fixed.jsonl", {"file": file, "raw": "{"})
    source = open_pairs(DataConfig(train=file, corrections=copy))
    assert len(list(source)) == 1
    (refusal,) = source.account.refusals
    assert (refusal.row, refusal.file) == (1, file) and "not JSON" in refusal.reason


@pytest.mark.parametrize(("row", "name"), [(9, "rows.jsonl"), (1, "other.jsonl")])
def test_a_correction_of_a_row_that_is_not_there_is_an_error(
    row: int, name: str, write_rows: WriteRows, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [GOOD])
    copy = quarantine(tmp_path / "fixed.jsonl", {"file": str(tmp_path / name), "row": row})
    with pytest.raises(DataError, match=rf"1 corrections .* row {row} of .*{name}"):
        list(open_pairs(DataConfig(train=file, corrections=copy)))


def test_two_corrections_of_a_row_must_agree(tmp_path: Path) -> None:
    same = quarantine(tmp_path / "a.jsonl", {}, {})
    assert read_corrections(same) == {("rows.jsonl", 1): GOOD}
    other = quarantine(tmp_path / "b.jsonl", {}, {"raw": {}})
    with pytest.raises(DataError, match=r"line 2 corrects row 1 .* in another way"):
        read_corrections(other)


def test_a_file_that_is_missing_or_no_quarantine_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "fixed.jsonl"
    with pytest.raises(DataError, match="edited copy of a quarantine file"):
        read_corrections(str(path))
    for text in ("{", '{"row": "x", "raw_id": "", "file": 1}'):
        path.write_text("\n" + text)
        with pytest.raises(DataError, match=r"fixed\.jsonl: line 2"):
            read_corrections(str(path))


def test_huge_rows_are_not_repeated_and_can_be_replaced_all_the_same(
    embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    rows = [*preference_rows(8), GOOD | {"chosen": "x" * RAW_LIMIT, "rejected": 1}]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    embed("llama", file, tmp_path / "store")
    (record,) = edited(tmp_path / "store", tmp_path / "fixed.jsonl", {9: GOOD})
    assert record["raw"] is None
    source = open_pairs(DataConfig(train=file, corrections=str(tmp_path / "fixed.jsonl")))
    assert len(list(source)) == 9
