"""Unions of data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.data import DataConfig, PartConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.check import Tally, summarise
from micro_rm.embed.sources.pair import DataError, PreferencePair

FIXTURES = Path(__file__).parent / "fixtures"


def part(source: str, use: str, **settings: object) -> PartConfig:
    return PartConfig(source=source, use=use, dir=str(FIXTURES / source), **settings)  # type: ignore[arg-type]


def union(*parts: PartConfig) -> DataConfig:
    return DataConfig(source="union", parts=list(parts))


def test_rows_that_are_not_used_are_counted_and_the_others_keep_their_split() -> None:
    source = open_pairs(union(part("helpsteer2", "train"), part("rpr", "test")))
    result = Counter((pair.source, pair.split) for pair in source)
    assert result == {("helpsteer2", "train"): 27, ("rpr", "test"): 36}
    assert source.account.left_out["test rows, not used of helpsteer2"] == 12
    assert source.account.left_out["train rows, not used of rpr"] == 36
    assert source.account.rows == 20 + 44


def test_rows_for_labels_alone_have_a_split_of_their_own() -> None:
    source = open_pairs(union(part("capybara", "train"), part("rpr", "adapt")))
    assert Counter((pair.source, pair.split) for pair in source) == {
        ("capybara", "train"): 11,
        ("rpr", "adapt"): 36,
    }


def test_every_part_has_its_own_contexts_and_account() -> None:
    config = union(
        part("helpsteer2", "train"),
        part("pku_saferlhf", "train", contexts="none"),
        part("reward_bench", "test"),
    )
    source = open_pairs(config)
    contexts = {pair.source: pair.context for pair in source}
    assert contexts["pku_saferlhf"] is None and contexts["helpsteer2"] and contexts["reward_bench"]
    summary = summarise(source)
    assert summary["sources"]["pku_saferlhf"] == {
        "rows": 12, "pairs": 5, "refused": 2, "tied": 0, "left_out": 5, "duplicated": 0, "leaked": 0
    }  # fmt: skip
    assert summary["sources"]["helpsteer2"]["tied"] == 16
    assert sum(counts["rows"] for counts in summary["sources"].values()) == summary["rows"]


def test_licences_are_those_of_every_part() -> None:
    result = summarise(open_pairs(union(part("pku_saferlhf", "train"), part("rpr", "test"))))
    assert result["licences"] == {
        "pku_saferlhf": "CC-BY-NC-4.0; not for commercial use; contains harmful text",
        "rpr": "CDLA-Permissive-2.0",
    }


def test_a_part_that_comes_twice_is_added_up() -> None:
    source = open_pairs(union(part("rpr", "train"), part("rpr", "test")))
    counts = summarise(source)["sources"]["rpr"]
    assert (counts["rows"], counts["pairs"], counts["left_out"]) == (88, 72, 32 + 72)


def test_leaks_and_repetitions_are_counted_by_their_source(
    make_pair: Callable[..., PreferencePair],
) -> None:
    tally = Tally()
    for prompt, split, source in (
        ("a", "train", "one"),
        ("a", "test", "two"),
        ("a", "test", "two"),
        ("b", "adapt", "one"),
        ("b", "test", "one"),
        ("c", "test", "one"),
    ):
        tally.add(make_pair(prompt, split=split, source=source))
    assert tally.leaked == {"two": 2, "one": 1}
    assert tally.duplicates == {"two": 2, "one": 1}
    assert tally.prompt_overlap == 2


def test_attributes_of_test_rows_may_be_others_only_in_a_transfer(
    make_pair: Callable[..., PreferencePair],
) -> None:
    tally = Tally()
    tally.add(make_pair("a", attribute="one"))
    tally.add(make_pair("b", attribute="two", split="test"))
    tally.require_both_splits(transfer=True)
    with pytest.raises(DataError, match="no test rows for attribute one"):
        tally.require_both_splits()


def test_a_union_needs_parts_and_parts_a_union() -> None:
    with pytest.raises(ConfigError, match=r"data\.parts: expected the data sets of the union"):
        DataConfig(source="union")
    with pytest.raises(ConfigError, match=r"data\.parts: expected nothing, or data.source=union"):
        DataConfig(source="rpr", parts=[part("rpr", "test")])


def test_what_is_wrong_with_a_part_is_said_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="expected one of capybara"):
        open_pairs(union(part("rpr", "train"), PartConfig(source="unknown")))
