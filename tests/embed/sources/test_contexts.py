"""Contexts are keyed by attribute, with other ones for test rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro_rm.embed.sources.contexts import read_contexts, with_context
from micro_rm.embed.sources.pair import DataError, PreferencePair

MakePair = Callable[..., PreferencePair]
CONTEXTS = {
    "brief": {"train": ["be brief", "few words", "short"], "test": ["concise", "no padding"]},
    "long": {"train": ["go deep"], "test": ["in depth"]},
}


@pytest.fixture
def pairs(make_pair: MakePair) -> list[PreferencePair]:
    return [
        make_pair(f"p{index}", attribute=name, split=split)
        for name in ("brief", "long")
        for split in ("train", "test")
        for index in range(60)
    ]


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return str(path)


def test_wordings_are_keyed_by_attribute_and_split_and_used_about_equally_often(
    pairs: list[PreferencePair],
) -> None:
    """A test wording is never given to a training row, nor the other way round."""
    result = [with_context(pair, CONTEXTS) for pair in pairs]
    counts = Counter((pair.attribute, pair.split, pair.context) for pair in result)
    assert counts.keys() == {
        (name, split, text)
        for name, splits in CONTEXTS.items()
        for split, texts in splits.items()
        for text in texts
    }
    assert min(counts.values()) >= 8
    assert [replace(pair, context=None) for pair in result] == pairs


def test_the_wording_of_a_pair_does_not_depend_on_other_pairs_or_its_place(
    pairs: list[PreferencePair],
) -> None:
    before = [with_context(pair, CONTEXTS).context for pair in pairs]
    moved = [with_context(replace(pair, row=9), CONTEXTS).context for pair in reversed(pairs)]
    assert moved[::-1] == before


def test_only_pairs_without_a_context_of_their_own_get_one(make_pair: MakePair) -> None:
    pairs = [make_pair(attribute="brief", context="mine"), make_pair(attribute="x"), make_pair()]
    assert [with_context(pair, CONTEXTS).context for pair in pairs] == ["mine", None, None]


def test_a_list_or_a_single_text_serves_both_splits(tmp_path: Path) -> None:
    both = {"train": ["a"], "test": ["b"]}
    value = {"x": both, "y": {"train": "a", "test": "b"}, "z": ["a", "b"], "w": "a"}
    assert read_contexts(write(tmp_path / "c.json", value)) == {
        "x": both,
        "y": both,
        "z": {"train": ["a", "b"], "test": ["a", "b"]},
        "w": {"train": ["a"], "test": ["a"]},
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not a JSON file"),
        ([1], "expected an object of attributes, found list"),
        ({"x": 3}, r"x: expected a text or a list of texts, found 3"),
        ({"x": []}, r"x: expected a text or a list of texts, found \[\]"),
        ({"x": ["a", 3]}, "x: expected text, found int"),
        ({"x": {"train": ["a"]}}, r"x: expected the keys train and test, missing \['test'\]"),
        ({"x": {"train": ["a"], "test": None}}, r"x\.test: expected a text or a list"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_contexts(write(tmp_path / "c.json", value))
    assert str(tmp_path / "c.json") in str(caught.value)


def test_a_file_that_is_missing_or_in_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.json: no such file.*--data\.contexts"):
        read_contexts(str(tmp_path / "c.json"))
    (tmp_path / "c.json").write_bytes('{"x": "\u00e9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not a JSON file"):
        read_contexts(str(tmp_path / "c.json"))
