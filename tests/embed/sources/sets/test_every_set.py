"""What holds for every published data set: its schema, its account, its errors."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import DataError
from micro_rm.embed.sources.sets import PUBLISHED

Load = Callable[..., Any]
FIXTURES = Path(__file__).parent.parent / "fixtures"
VARIANTS = [(name, variant) for name, source in PUBLISHED.items() for variant in source.variants]
# Rows, pairs, refusals, ties, left out; counted by hand in the fixtures.
ACCOUNTS = {
    ("helpsteer2", "by_prompt"): (20, 39, 1, 16, 0),
    ("helpsteer2", "official"): (20, 39, 1, 16, 0),
    ("helpsteer2", "official_800"): (20, 39, 1, 16, 0),
    ("rpr", "nine"): (44, 72, 0, 0, 16),
    ("rpr", "ten"): (44, 80, 0, 0, 8),
    ("preference_700k", "all"): (24, 21, 3, 0, 0),
    ("ultrafeedback", "all"): (20, 76, 2, 4, 7),
    ("pku_saferlhf", "safety"): (12, 8, 2, 0, 2),
    ("pku_saferlhf", "both"): (12, 18, 2, 0, 2),
    ("hh_rlhf", "base"): (16, 12, 4, 0, 0),
    ("hh_rlhf", "all"): (21, 17, 4, 0, 0),
    ("shp", "test"): (14, 8, 4, 0, 2),
    ("shp", "validation"): (10, 7, 2, 0, 1),
    ("helpsteer", "validation"): (12, 47, 1, 8, 0),
    ("capybara", "all"): (17, 14, 2, 1, 0),
    ("orca_pairs", "all"): (19, 17, 1, 1, 0),
    ("orca_pairs", "curated"): (19, 14, 2, 1, 2),
    ("ultrainteract", "all"): (19, 15, 4, 0, 0),
    ("reward_bench", "filtered"): (47, 46, 1, 0, 0),
    ("reward_bench_2", "test"): (9, 35, 2, 0, 0),
    ("prism", "stated"): (45, 56, 3, 14, 14),
    ("prism", "profile"): (45, 56, 3, 14, 14),
}


def copy_of(name: str, index: Path) -> Path:
    shutil.copytree(FIXTURES / name, index, dirs_exist_ok=True)
    return index


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def first_part(name: str) -> str:
    return next(iter(PUBLISHED[name].variants.values()))[-1]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_account_of_the_fixture_is_the_one_counted_by_hand(
    name: str, variant: str, load: Load
) -> None:
    found = load(name, variant=variant)
    account = found.account
    assert (
        account.rows,
        len(found.pairs),
        len(account.refusals),
        account.ties.total(),
        account.left_out.total(),
    ) == ACCOUNTS[name, variant]
    assert account.pairs == len(found.pairs)
    assert {pair.source for pair in found.pairs} == {name}
    assert all(pair.chosen != pair.rejected for pair in found.pairs)
    assert all(pair.prompt[-1].role == "user" for pair in found.pairs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_licence_revision_and_counts_are_stated(name: str) -> None:
    upstream = PUBLISHED[name].upstream
    assert upstream.licence and re.fullmatch("[0-9a-f]{40}|main", upstream.revision)
    read = {part for parts in PUBLISHED[name].variants.values() for part in parts}
    assert read == {part.name for part in upstream.parts}
    counts = [part.rows for part in upstream.parts]
    assert all(counts) or name == "preference_700k"


@pytest.mark.parametrize("name", PUBLISHED)
def test_pairs_do_not_depend_on_the_order_of_the_rows(
    name: str, load: Load, tmp_path: Path
) -> None:
    index = copy_of(name, tmp_path)
    for path in index.iterdir():
        rewrite(path, random.Random(3).shuffle)
    shuffled, plain = load(name, index), load(name)
    ids = [
        Counter((pair.pair_id, pair.split) for pair in found.pairs) for found in (shuffled, plain)
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_column_is_an_error_that_names_it_and_the_remedy(
    name: str, load: Load, tmp_path: Path
) -> None:
    part = PUBLISHED[name].upstream.part(first_part(name))
    column = sorted(part.columns or PUBLISHED[name].upstream.columns)[0]

    def rename(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["renamed"] = row.pop(column)

    rewrite(copy_of(name, tmp_path) / f"{part.name}.jsonl", rename)
    words = rf"{part.name}.*no column {column}.*made for {PUBLISHED[name].upstream.repo}.*data\.dir"
    with pytest.raises(DataError, match=words):
        load(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "prism"])
def test_an_extra_column_is_an_error_unless_it_is_allowed(
    name: str, load: Load, tmp_path: Path
) -> None:
    part = first_part(name)
    rewrite(
        copy_of(name, tmp_path) / f"{part}.jsonl",
        lambda rows: [row.update(surprise=1) for row in rows],
    )
    with pytest.raises(DataError, match=r"unknown column surprise.*--data\.extra_columns ignore"):
        load(name, tmp_path)
    allowed = load(name, tmp_path, extra_columns="ignore")
    assert len(allowed.pairs) == len(load(name).pairs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_an_error_before_anything_is_read(name: str, tmp_path: Path) -> None:
    part = PUBLISHED[name].upstream.part(first_part(name))
    (copy_of(name, tmp_path) / f"{part.name}.jsonl").unlink()
    with pytest.raises(DataError, match=f"has no {part.name}.*split {part.split}.*leave data.dir"):
        open_pairs(DataConfig(source=name, dir=str(tmp_path)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_that_are_no_rows_are_refused_and_the_others_kept(
    name: str, load: Load, tmp_path: Path
) -> None:
    part = first_part(name)
    path = copy_of(name, tmp_path) / f"{part}.jsonl"
    broken = {key: [1] for key in json.loads(path.read_text("utf-8").splitlines()[0])}
    lines = ["{", json.dumps(broken), json.dumps({"else": 1})]
    path.write_text(path.read_text("utf-8") + "\n".join(lines) + "\n", "utf-8")
    found, plain = load(name, tmp_path), load(name)
    assert found.account.rows == plain.account.rows + 3
    assert found.account.pairs == plain.account.pairs
    assert len(found.account.refusals) == len(plain.account.refusals) + 3


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of by_prompt, official, official_800 for helps"):
        open_pairs(DataConfig(source="helpsteer2", variant="best"))


def test_a_limit_takes_that_many_rows_of_each_file_and_another_draw_others(load: Load) -> None:
    some = load("reward_bench", limit=10)
    assert some.account.rows == 47
    assert some.account.left_out == {"beyond data.limit": 37}
    assert len(some.pairs) + len(some.account.refusals) == 10
    rows = {pair.row for pair in some.pairs}
    assert rows == {pair.row for pair in load("reward_bench", limit=10).pairs}
    assert rows != {pair.row for pair in load("reward_bench", limit=10, draw=1).pairs}
    assert not load("reward_bench", limit=47).account.left_out


def test_attributes_that_are_not_asked_for_are_left_out_and_counted(load: Load) -> None:
    found = load("helpsteer2", attributes=["verbosity", "coherence"])
    assert {pair.attribute for pair in found.pairs} == {"verbosity", "coherence"}
    assert found.account.left_out.total() + len(found.pairs) == 39


def test_rows_found_are_set_beside_the_rows_expected(load: Load) -> None:
    tables = load("helpsteer2").account.upstream
    assert [(table.part, table.expected, table.found) for table in tables] == [
        ("train", 20_324, 13),
        ("validation", 1_038, 7),
    ]
