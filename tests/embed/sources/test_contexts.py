"""Contexts are keyed by attribute, with other ones for test rows."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
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


def test_contexts_are_keyed_by_attribute_and_split(pairs: list[PreferencePair]) -> None:
    """A test wording is never given to a training row, nor the other way round."""
    result = [with_context(pair, CONTEXTS) for pair in pairs]
    seen = {(pair.attribute, pair.split, pair.context) for pair in result}
    assert seen == {
        (name, split, text)
        for name, splits in CONTEXTS.items()
        for split, texts in splits.items()
        for text in texts
    }


def test_wordings_are_used_about_equally_often(pairs: list[PreferencePair]) -> None:
    result = [with_context(pair, CONTEXTS) for pair in pairs]
    counts = Counter(pair.context for pair in result if pair.context in CONTEXTS["brief"]["train"])
    assert min(counts.values()) >= 8


def test_the_wording_of_a_pair_survives_reordering(pairs: list[PreferencePair]) -> None:
    shuffled = random.Random(1).sample(pairs, len(pairs))
    first = {with_context(pair, CONTEXTS).pair_id for pair in pairs}
    second = {with_context(pair, CONTEXTS).pair_id for pair in shuffled}
    assert first == second


def test_only_pairs_without_a_context_of_their_own_get_one(make_pair: MakePair) -> None:
    pairs = [
        make_pair(attribute="brief", context="mine"),
        make_pair(attribute="unheard-of"),
        make_pair(),
    ]
    assert [with_context(pair, CONTEXTS).context for pair in pairs] == ["mine", None, None]


def test_nothing_but_the_context_changes(pairs: list[PreferencePair]) -> None:
    for before in pairs:
        after = with_context(before, CONTEXTS)
        assert (before.prompt, before.chosen, before.rejected, before.row) == (
            after.prompt,
            after.chosen,
            after.rejected,
            after.row,
        )
        assert (before.attribute, before.split) == (after.attribute, after.split)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"train": ["a"], "test": ["b"]}, {"train": ["a"], "test": ["b"]}),
        ({"train": "a", "test": "b"}, {"train": ["a"], "test": ["b"]}),
        (["a", "b"], {"train": ["a", "b"], "test": ["a", "b"]}),
        ("a", {"train": ["a"], "test": ["a"]}),
    ],
)
def test_a_list_or_a_single_text_serves_both_splits(
    value: Any, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    assert read_contexts(write(tmp_path / "c.json", {"x": value})) == {"x": expected}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not a JSON file"),
        ([1], "expected an object of attributes, found list"),
        ({"x": 3}, r"x: expected a text or a list of texts, found 3"),
        ({"x": []}, r"x: expected a text or a list of texts, found \[\]"),
        ({"x": [" "]}, "x: expected text, found an empty string"),
        ({"x": ["a", 3]}, "x: expected text, found int"),
        ({"x": ["a\x00"]}, "x: text contains NUL"),
        ({"x": ["a\ud800"]}, "x: .*lone surrogate"),
        ({"x": {"train": ["a"]}}, r"x: expected the keys train and test, missing \['test'\]"),
        ({"x": {"train": ["a"], "test": None}}, r"x\.test: expected a text or a list"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_contexts(write(tmp_path / "c.json", value))
    assert str(tmp_path / "c.json") in str(caught.value)


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.json: no such file.*--data\.contexts"):
        read_contexts(str(tmp_path / "c.json"))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes('{"x": "\u00e9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not a JSON file"):
        read_contexts(str(tmp_path / "c.json"))
