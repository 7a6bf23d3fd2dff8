"""What holds for every published data set: its account, its documentation, its errors."""

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
from micro_rm.embed.sources.sets import PUBLISHED, helpsteer2

from .conftest import FIXTURES

Load = Callable[..., Any]
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
    """A copy of the fixture that a test may change; returns the file of the last part."""
    shutil.copytree(FIXTURES / name, index, dirs_exist_ok=True)
    return index / f"{next(iter(PUBLISHED[name].variants.values()))[-1]}.jsonl"


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_every_variant_has_an_account() -> None:
    variants = {(name, item) for name, source in PUBLISHED.items() for item in source.variants}
    assert ACCOUNTS.keys() == variants


@pytest.mark.parametrize(("name", "variant"), ACCOUNTS)
def test_the_account_of_the_fixture_is_the_one_counted_by_hand(
    name: str, variant: str, load: Load
) -> None:
    found = load(name, variant=variant)
    account, refused = found.account, len(found.account.refusals)
    ties, left_out = account.ties.total(), account.left_out.total()
    counts = (account.rows, len(found.pairs), refused, ties, left_out)
    assert counts == ACCOUNTS[name, variant]
    assert account.pairs == len(found.pairs)
    assert {pair.source for pair in found.pairs} == {name}
    assert all(pair.chosen != pair.rejected for pair in found.pairs)
    assert all(pair.prompt[-1].role == "user" for pair in found.pairs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_neither_the_order_of_the_rows_nor_rows_that_are_none_change_the_pairs(
    name: str, load: Load, tmp_path: Path
) -> None:
    last = copy_of(name, tmp_path)
    for path in tmp_path.iterdir():
        rewrite(path, random.Random(3).shuffle)
    lines = last.read_text("utf-8").splitlines()
    broken = {key: [1] for key in json.loads(lines[0])}
    lines += ["{", json.dumps(broken), json.dumps({"else": 1}), ""]
    last.write_text("\n".join(lines), "utf-8")
    found, plain = load(name, tmp_path), load(name)
    ids = [Counter((pair.pair_id, pair.split) for pair in one.pairs) for one in (found, plain)]
    assert ids[0] == ids[1]
    assert found.account.rows == plain.account.rows + 3
    assert len(found.account.refusals) == len(plain.account.refusals) + 3


def test_what_is_documented_of_a_set_is_what_the_code_says(repository: Path) -> None:
    lines = (repository / "docs" / "data.md").read_text("utf-8").splitlines()
    for name, source in PUBLISHED.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}`:")]
        upstream = source.upstream
        assert upstream.licence and re.fullmatch("[0-9a-f]{40}|main", upstream.revision)
        assert {part for parts in source.variants.values() for part in parts} == {
            part.name for part in upstream.parts
        }
        assert source.summary in line and ", ".join(source.variants) in line
        assert upstream.licence in line and upstream.terms in line
        assert f"datasets/{upstream.repo}) {upstream.revision[:12]} |" in line
        for part in upstream.parts:
            assert bool(part.rows) == (name != "preference_700k")
            assert (f"{part.name} {part.rows:,}" if part.rows else f"{part.name} not kn") in line


def test_the_largest_sets_are_streamed_and_those_with_offensive_text_say_so() -> None:
    upstream = {name: source.upstream for name, source in PUBLISHED.items()}
    assert {name for name, up in upstream.items() if up.streaming} == {
        "preference_700k",
        "shp",
        "ultrainteract",
    }
    assert "offensive" in upstream["hh_rlhf"].terms
    for words in ("CC-BY-NC-4.0", "Reddit", "Apache-2.0", "MIT"):
        assert words in upstream["preference_700k"].terms


def test_a_part_is_a_split_of_a_subset_or_folder_of_the_hub() -> None:
    part = PUBLISHED["hh_rlhf"].upstream.part("helpful-rejection-sampled-test")
    assert (part.folder, part.split, part.rows) == ("helpful-rejection-sampled", "test", 2_749)
    assert {part.subset for part in PUBLISHED["pku_saferlhf"].upstream.parts} == {"default"}


@pytest.mark.parametrize(
    ("name", "contexts"),
    [("helpsteer2", 5), ("helpsteer", 5), ("pku_saferlhf", 2), ("reward_bench", 23)],
)
def test_every_attribute_of_these_sets_has_a_context_of_its_own(
    name: str, contexts: int, load: Load
) -> None:
    """The wording asks for more, as the ratings reward more."""
    found = load(name, variant="both" if name == "pku_saferlhf" else None)
    texts = {pair.attribute: pair.context for pair in found.pairs}
    assert len(texts) == contexts == len(set(texts.values())) and all(texts.values())
    if name == "helpsteer2":
        assert texts.keys() == set(helpsteer2.ATTRIBUTES)
        assert "expansive, detailed response" in texts["verbosity"]
        assert "sophisticated language" in texts["complexity"]
    assert {pair.context for pair in load(name, contexts="none").pairs} == {None}


# Errors


@pytest.mark.parametrize(
    ("name", "part", "column"), [("rpr", "test", "category_x"), ("prism", "survey", "user_id")]
)
def test_a_missing_column_is_an_error_that_names_it_and_the_remedy(
    name: str, part: str, column: str, load: Load, tmp_path: Path
) -> None:
    copy_of(name, tmp_path)
    rewrite(
        tmp_path / f"{part}.jsonl",
        lambda rows: [row.update(renamed=row.pop(column)) for row in rows],
    )
    repo = PUBLISHED[name].upstream.repo
    with pytest.raises(DataError, match=rf"{part}.*no column {column}.*made for {repo}.*data\.dir"):
        load(name, tmp_path)


def test_an_extra_column_is_an_error_unless_it_is_allowed(load: Load, tmp_path: Path) -> None:
    rewrite(copy_of("shp", tmp_path), lambda rows: [row.update(surprise=1) for row in rows])
    with pytest.raises(DataError, match=r"unknown column surprise.*--data\.extra_columns ignore"):
        load("shp", tmp_path)
    allowed, plain = load("shp", tmp_path, extra_columns="ignore"), load("shp")
    assert [pair.pair_id for pair in allowed.pairs] == [pair.pair_id for pair in plain.pairs]


def test_a_missing_file_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    copy_of("shp", tmp_path).unlink()
    with pytest.raises(DataError, match=r"has no test.*split test.*leave data.dir"):
        open_pairs(DataConfig(source="shp", dir=str(tmp_path)))


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
