"""Local preference files in every accepted format; every row is accounted for."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.data import ColumnsConfig
from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.pair import SAME_TEXT, DataError, Message, PreferencePair

Row = dict[str, Any]
WriteRows = Callable[..., str]
FORMATS = (".jsonl", ".jsonl.gz", ".parquet")
GOOD: Row = {"prompt": "a", "chosen": "x", "rejected": "y"}


class Loaded(NamedTuple):
    """The pairs of one pass and its account."""

    pairs: list[PreferencePair]
    account: Account


Load = Callable[..., Loaded]


def turn(role: str, content: str) -> Row:
    return {"role": role, "content": content}


USER = [turn("user", "a")]
TALK = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
HUMAN = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
SHAPES: dict[str, Row] = {
    "explicit text": GOOD,
    "explicit messages": {
        "prompt": USER,
        "chosen": [turn("assistant", "x")],
        "rejected": [turn("assistant", "y")],
    },
    "explicit messages, text responses": {"prompt": USER, "chosen": "x", "rejected": "y"},
    "explicit text, whole conversations": {
        "prompt": "a",
        "chosen": [*USER, turn("assistant", "x")],
        "rejected": [*USER, turn("assistant", "y")],
    },
    "implicit conversations": {
        "chosen": [*USER, turn("assistant", "x")],
        "rejected": [*USER, turn("assistant", "y")],
    },
    "transcripts": {
        "chosen": "\n\nHuman: a\n\nAssistant: x",
        "rejected": "\n\nHuman: a\n\nAssistant: y",
    },
    "transcripts and a prompt": {
        "prompt": "Human: a",
        "chosen": "Human: a\n\nAssistant: x",
        "rejected": "Human: a\n\nAssistant: y",
    },
    "open transcript prompt": {
        "prompt": "\n\nHuman: a\n\nAssistant:",
        "chosen": "x",
        "rejected": "y",
    },
    "transcript prompt, text responses": {"prompt": "Human: a", "chosen": "x", "rejected": "y"},
    "a prompt that is null": {
        "prompt": None,
        "chosen": [*USER, turn("assistant", "x")],
        "rejected": [*USER, turn("assistant", "y")],
    },
}
MULTI: dict[str, Row] = {
    "explicit messages": {"prompt": TALK, "chosen": "x", "rejected": "y"},
    "implicit conversations": {
        "chosen": [*TALK, turn("assistant", "x")],
        "rejected": [*TALK, turn("assistant", "y")],
    },
    "transcripts": {
        "chosen": f"{HUMAN}\n\nAssistant: x",
        "rejected": f"{HUMAN}\n\nAssistant: y",
    },
    "transcripts and a prompt": {
        "prompt": HUMAN,
        "chosen": f"{HUMAN}\n\nAssistant: x",
        "rejected": f"{HUMAN}\n\nAssistant: y",
    },
}


def read_all(config: DataConfig) -> Loaded:
    source = open_pairs(config)
    return Loaded(list(source), source.account)


@pytest.fixture
def load(tmp_path: Path, write_rows: WriteRows) -> Load:
    """``load(rows, suffix, test=rows, **settings)``: what one pass over a file of rows gives."""

    def run(
        rows: list[Row | str],
        suffix: str = ".jsonl",
        test: list[Row | str] | None = None,
        **settings: Any,
    ) -> Loaded:
        settings["train"] = write_rows(tmp_path / f"train{suffix}", rows)
        if test is not None:
            settings["test"] = write_rows(tmp_path / f"test{suffix}", test)
        return read_all(DataConfig(**settings))

    return run


def said(pair: PreferencePair) -> tuple[Any, ...]:
    return pair.prompt, pair.chosen, pair.rejected


# Shapes


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_pair(shape: str, suffix: str, load: Load) -> None:
    result = load([SHAPES[shape]], suffix)
    assert [said(pair) for pair in result.pairs] == [((Message("user", "a"),), "x", "y")]
    assert (result.account.rows, result.account.refusals) == (1, [])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", MULTI)
def test_every_shape_keeps_all_turns_of_a_prompt(shape: str, suffix: str, load: Load) -> None:
    (pair,) = load([MULTI[shape]], suffix).pairs
    assert said(pair) == (tuple(Message(**item) for item in TALK), "x", "y")


@pytest.mark.parametrize("suffix", FORMATS)
def test_optional_columns_are_read(suffix: str, load: Load) -> None:
    row = GOOD | {
        "attribute": "brief",
        "context": "be brief",
        "user": 17,
        "margin": 2,
        "split": "test",
        "surplus": [1, 2],
    }
    (pair,) = load([row], suffix).pairs
    assert (pair.attribute, pair.context, pair.user, pair.margin, pair.split) == (
        "brief",
        "be brief",
        "17",
        2.0,
        "test",
    )
    assert (pair.source, pair.row) == ("jsonl", 1)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["attribute", "context", "user"])
def test_an_empty_label_is_none(name: str, value: str | None, load: Load) -> None:
    (pair,) = load([GOOD | {name: value}]).pairs
    assert getattr(pair, name) is None


def test_columns_may_have_other_names(load: Load) -> None:
    names = {field: f"my {field}" for field in ColumnsConfig.__dataclass_fields__}
    row = {"my prompt": "a", "my chosen": "x", "my rejected": "y", "my attribute": "b", "chosen": 3}
    (pair,) = load([row], columns=ColumnsConfig(**names)).pairs
    assert said(pair) == ((Message("user", "a"),), "x", "y")
    assert pair.attribute == "b"


@pytest.mark.parametrize("suffix", FORMATS)
def test_ratings_become_pairs_per_attribute(suffix: str, load: Load) -> None:
    """Ties are dropped and counted."""
    rows: list[Row | str] = [
        {"prompt": "a", "response": "x", "help": 4, "brief": 1, "source": "m1"},
        {"prompt": "a", "response": "y", "help": 2, "brief": 1, "source": "m2"},
        {"prompt": TALK[:1][0]["content"], "response": "z", "help": 0, "brief": 3, "source": "m1"},
        {"prompt": "a", "response": "w", "help": 1, "brief": 2, "source": "m2"},
    ]
    result = load(rows, suffix)
    assert [(p.attribute, p.chosen, p.rejected, p.margin, p.row) for p in result.pairs] == [
        ("help", "x", "y", 2.0, 1),
        ("help", "w", "z", 1.0, 3),
        ("brief", "z", "w", 1.0, 3),
    ]
    assert result.account.ties == {"brief": 1}
    assert (result.account.rows, result.account.refusals) == (4, [])


def test_pairing_all_compares_every_two_responses(load: Load) -> None:
    rows: list[Row | str] = [
        {"prompt": prompt, "response": f"r{number}", "help": number}
        for number, prompt in enumerate("ababa")
    ]
    assert len(load(rows, pairing="all").pairs) == 3 + 1
    with pytest.raises(DataError, match="no second response"):
        load(rows, pairing="adjacent")


def test_only_the_attributes_asked_for_are_used(load: Load) -> None:
    ratings: list[Row | str] = [
        {"prompt": "a", "response": name, "help": number, "brief": number, "n": 1.5 + number}
        for number, name in enumerate("xy")
    ]
    assert {pair.attribute for pair in load(ratings).pairs} == {"help", "brief"}
    assert {pair.attribute for pair in load(ratings, attributes=["n"]).pairs} == {"n"}
    labelled: list[Row | str] = [GOOD | {"attribute": name} for name in ("brief", "long", None)]
    result = load(labelled, attributes=["long"])
    assert [pair.attribute for pair in result.pairs] == ["long"]
    assert [(item.row, item.field) for item in result.account.refusals] == [
        (1, "attribute"),
        (3, "attribute"),
    ]
    assert "'brief' is not listed in data.attributes" in result.account.refusals[0].reason


def test_ratings_without_an_integer_column_are_an_error_with_a_remedy(load: Load) -> None:
    with pytest.raises(DataError, match=r"no integer column.*data\.attributes"):
        load([{"prompt": "a", "response": "x", "score": 0.5}])


# Refusals

BAD: list[tuple[Row | str, str, str]] = [
    ("{", "", "not JSON"),
    ("[1]", "", "expected a JSON object, found list"),
    ({}, "chosen", "missing column"),
    ({"prompt": "a"}, "chosen", "missing column; the row has prompt"),
    ({"prompt": "a", "chosen": "x"}, "rejected", "missing column"),
    ({"prompt": "a", "rejected": "x"}, "chosen", "missing column"),
    (GOOD | {"prompt": 3}, "prompt", "found int"),
    (GOOD | {"prompt": ""}, "prompt", "found an empty string"),
    (GOOD | {"prompt": []}, "prompt", "found an empty list"),
    (GOOD | {"prompt": [turn("robot", "a")]}, "prompt[0].role", "found 'robot'"),
    (GOOD | {"prompt": [turn("assistant", "a")]}, "prompt", "found assistant"),
    (GOOD | {"prompt": "Human: a\n\nAssistant: b"}, "prompt", "found assistant"),
    (GOOD | {"chosen": None}, "chosen", "found NoneType"),
    (GOOD | {"chosen": " \n"}, "chosen", "found an empty string"),
    (GOOD | {"rejected": 1.5}, "rejected", "found float"),
    (GOOD | {"rejected": "y\x00"}, "rejected", "NUL"),
    (json.dumps(GOOD | {"chosen": "\ud800"}), "chosen", "lone surrogate"),
    (GOOD | {"rejected": "x"}, "rejected", "the same text"),
    ({"chosen": "x", "rejected": "y"}, "chosen", "add a prompt column"),
    (
        {"chosen": "Human: a\n\nAssistant: x", "rejected": "Human: b\n\nAssistant: y"},
        "rejected",
        "differ before their last message",
    ),
    (GOOD | {"attribute": ["brief"]}, "attribute", "expected text, found list"),
    (GOOD | {"attribute": True}, "attribute", "expected text, found bool"),
    (GOOD | {"context": {"a": 1}}, "context", "expected text, found dict"),
    (GOOD | {"user": 1.5}, "user", "expected text, found float"),
    (GOOD | {"margin": "2"}, "margin", "expected a number, found str"),
    (GOOD | {"margin": False}, "margin", "expected a number, found bool"),
    (GOOD | {"margin": 10**400}, "margin", "expected a finite number"),
    (GOOD | {"margin": math.nan}, "margin", "expected a finite number, found nan"),
    *(
        (json.dumps(GOOD | {field: text}), field, "NUL or a lone surrogate")
        for field in ("attribute", "context", "user")
        for text in ("a\x00b", "a\ud800b")
    ),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize(
    ("bad", "field", "reason"), BAD, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(BAD)]
)
def test_a_malformed_row_is_refused_and_its_neighbours_survive(
    bad: Row | str, field: str, reason: str, suffix: str, load: Load
) -> None:
    result = load([GOOD, bad, GOOD | {"prompt": "b"}], suffix)
    assert [pair.row for pair in result.pairs] == [1, 3]
    (refusal,) = result.account.refusals
    assert (refusal.row, refusal.field) == (2, field)
    assert reason in refusal.reason
    assert Path(refusal.file).name == f"train{suffix}"
    assert result.account.rows == 3


def test_all_kinds_of_malformed_rows_at_once(load: Load) -> None:
    """Rows = pairs + refusals."""
    rows = [item for bad, _, _ in BAD for item in (GOOD, bad)]
    result = load(rows)
    assert len(result.pairs) == len(result.account.refusals) == len(BAD)
    assert {item.row for item in result.account.refusals} == set(range(2, 2 * len(BAD) + 1, 2))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3", "expected a number, found str"),
        (True, "expected a number, found bool"),
        (math.nan, "expected a finite number, found nan"),
        (math.inf, "expected a finite number, found inf"),
        (10**400, "expected a finite number, found inf"),
        ([3], "expected a number, found list"),
    ],
)
def test_a_wrong_rating_is_refused_and_other_rows_survive(
    value: Any, reason: str, load: Load
) -> None:
    rows: list[Row | str] = [
        {"prompt": f"p{number // 2}", "response": f"r{number}", "help": number, "brief": -number}
        for number in range(6)
    ]
    rows[2] = {"prompt": "p1", "response": "r2", "help": value, "brief": 1}
    result = load(rows, attributes=["help", "brief"])
    assert [pair.row for pair in result.pairs] == [1, 1, 5, 5]
    assert [(item.row, item.field) for item in result.account.refusals] == [
        (3, "help"),
        (4, "response"),
    ]
    assert result.account.refusals[0].reason == reason
    assert result.account.rows == 6


def test_a_missing_rating_costs_only_its_own_attribute(load: Load) -> None:
    rows: list[Row | str] = [
        {"prompt": "a", "response": "x", "help": 1, "brief": None},
        {"prompt": "a", "response": "y", "help": 2, "brief": 2},
    ]
    result = load(rows)
    assert [pair.attribute for pair in result.pairs] == ["help"]
    assert result.account.refusals == []


def test_a_rated_row_needs_its_own_prompt(load: Load) -> None:
    rows: list[Row | str] = [
        {"response": "w", "help": 1},
        {"prompt": "a", "response": "x", "help": 1},
        {"prompt": "a", "response": "y", "help": 2},
    ]
    result = load(rows)
    assert [(item.row, item.field) for item in result.account.refusals] == [(1, "prompt")]
    assert len(result.pairs) == 1


# Files and sources


@pytest.mark.parametrize("suffix", FORMATS[:2])
def test_an_empty_file_is_an_error_that_says_what_to_do(suffix: str, load: Load) -> None:
    with pytest.raises(DataError, match=r"no usable pair in 0 rows; the file is empty.*README"):
        load([], suffix)


def test_a_file_without_a_good_row_is_an_error_with_the_first_reasons(load: Load) -> None:
    rows: list[Row | str] = ["{", {"prompt": "a"}, GOOD | {"chosen": 3}, GOOD | {"chosen": 4}]
    with pytest.raises(DataError) as caught:
        load(rows)
    message = str(caught.value)
    assert "no usable pair in 4 rows" in message
    assert "row 1: " in message and "row 3: chosen expected text, found int" in message
    assert "row 4" not in message


def test_no_training_file_is_an_error_with_a_remedy() -> None:
    with pytest.raises(DataError, match=r"data\.train: no training file; .*--data\.train FILE"):
        open_pairs(DataConfig())


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_missing_file_is_named(side: str, tmp_path: Path, write_rows: WriteRows) -> None:
    config = DataConfig(
        train=write_rows(tmp_path / "a.jsonl", [GOOD]), test=str(tmp_path / "a.jsonl")
    )
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        open_pairs(replace(config, **{side: str(tmp_path / "nowhere.jsonl")}))


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"data\.source: expected one of .*jsonl.*found 'csv'"):
        open_pairs(DataConfig(source="csv"))


# Splits, ids, contexts


def prompts_of(result: Loaded, split: str) -> set[str]:
    return {pair.prompt_id for pair in result.pairs if pair.split == split}


def overlap(result: Loaded) -> int:
    return len(prompts_of(result, "train") & prompts_of(result, "test"))


def many(number: int = 400) -> list[Row | str]:
    return [
        {
            "prompt": f"prompt {index // 4}",
            "chosen": f"x{index}",
            "rejected": "y",
            "attribute": ("brief", "long")[index % 2],
        }
        for index in range(number)
    ]


def test_no_prompt_is_in_both_splits_when_split_by_prompt(load: Load) -> None:
    result = load(many(), test_fraction=0.3)
    assert overlap(result) == 0
    assert 15 <= len(prompts_of(result, "test")) <= 45
    assert len(prompts_of(result, "train")) + len(prompts_of(result, "test")) == 100


def test_rated_responses_are_split_by_prompt_too(load: Load) -> None:
    rows: list[Row | str] = [
        {"prompt": f"prompt {index // 2}", "response": f"r{index}", "help": index % 2}
        for index in range(200)
    ]
    result = load(rows, test_fraction=0.5)
    assert (overlap(result), result.account.refusals) == (0, [])
    assert 30 <= len(prompts_of(result, "test")) <= 70


def test_the_split_of_a_prompt_does_not_depend_on_other_rows(load: Load) -> None:
    whole, half = load(many()), load(many()[:200])
    assert prompts_of(half, "test") <= prompts_of(whole, "test")
    assert prompts_of(half, "train") <= prompts_of(whole, "train")


def test_the_share_of_test_prompts_grows_with_the_fraction(load: Load) -> None:
    result = [prompts_of(load(many(), test_fraction=share), "test") for share in (0.1, 0.5, 0.9)]
    assert result[0] < result[1] < result[2]


def test_a_split_column_is_followed(load: Load) -> None:
    """Under the data's own split an overlap is possible, and it is counted."""
    rows: list[Row | str] = [GOOD | {"split": "train"}, GOOD | {"split": "test", "chosen": "z"}]
    result = load(rows)
    assert [pair.split for pair in result.pairs] == ["train", "test"]
    assert overlap(result) == 1


def test_a_test_file_decides_the_split(load: Load) -> None:
    result = load([GOOD | {"split": "test"}], test=[GOOD | {"split": "train", "prompt": "b"}])
    assert [(pair.split, pair.prompt[0].content) for pair in result.pairs] == [
        ("train", "a"),
        ("test", "b"),
    ]
    assert [pair.row for pair in result.pairs] == [1, 1]


@pytest.mark.parametrize("suffix", FORMATS)
def test_pair_ids_are_stable_when_the_file_is_shuffled(suffix: str, load: Load) -> None:
    rows = many(80)
    first = load(rows, suffix)
    second = load(random.Random(3).sample(rows, len(rows)), suffix)
    keyed = {pair.pair_id: (pair.split, said(pair)) for pair in first.pairs}
    assert len(keyed) == 80
    assert {pair.pair_id: (pair.split, said(pair)) for pair in second.pairs} == keyed


def test_contexts_are_given_by_attribute_and_split(load: Load, tmp_path: Path) -> None:
    contexts = {
        "brief": {"train": ["be brief", "short"], "test": ["terse"]},
        "long": {"train": ["go deep"], "test": ["in depth", "at length"]},
    }
    (tmp_path / "contexts.json").write_text(json.dumps(contexts))
    result = load(many(), contexts=str(tmp_path / "contexts.json"))
    for pair in result.pairs:
        assert pair.attribute is not None
        assert pair.context in contexts[pair.attribute][pair.split]


def test_contexts_for_other_attributes_than_the_datas_are_refused(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "contexts.json").write_text(json.dumps({"brevity": ["be brief"]}))
    with pytest.raises(DataError, match=r"contexts for brevity, .* attributes brief, long"):
        load(many(8), contexts=str(tmp_path / "contexts.json"))


def test_the_unanimity_filter_is_a_setting(load: Load) -> None:
    """Whole response pairs, from training rows only."""
    train: list[Row | str] = [
        {"prompt": prompt, "response": f"{prompt}{index}", "help": index, "brief": sign * index}
        for prompt, sign in (("a", 1), ("b", -1))
        for index in range(2)
    ]
    test: list[Row | str] = [row | {"prompt": "c"} for row in train[:2] if isinstance(row, dict)]
    plain, filtered = load(train, test=test), load(train, test=test, drop_unanimous=True)
    assert [pair.prompt[0].content for pair in plain.pairs] == ["a", "a", "b", "b", "c", "c"]
    assert [pair.prompt[0].content for pair in filtered.pairs] == ["b", "b", "c", "c"]
    assert (plain.account.unanimous, filtered.account.unanimous) == (0, 1)


# Real data, when they lie beside the repository


@pytest.fixture
def data(repository: Path) -> Path:
    """The shared data; tests that read them are skipped where they are missing."""
    directory = repository.parent / "shared" / "data"
    if not (directory / "alpaca_styles").is_dir():
        pytest.skip(f"no preference data at {directory}")
    return directory


@pytest.mark.long
def test_alpaca_styles_has_every_pair_with_both_labels(data: Path) -> None:
    """Counts, opposite labels, no overlap, unseen test wordings."""
    base = data / "alpaca_styles"
    config = DataConfig(
        train=str(base / "train.jsonl.gz"),
        test=str(base / "test.jsonl.gz"),
        contexts=str(base / "contexts.json"),
    )
    source = open_pairs(config)
    result = Loaded(list(source), source.account)
    assert Counter(pair.split for pair in result.pairs) == {"train": 4138, "test": 1058}
    assert result.account.rows == 2420
    assert all(refusal.reason.startswith(SAME_TEXT) for refusal in result.account.refusals)
    summary = summarise(source)
    assert summary["contradictions"] == len(result.pairs)
    assert (summary["prompt_overlap"], summary["duplicates"]) == (0, 0)
    assert summary["splits"]["train"]["prompts"] <= 485
    assert summary["splits"]["test"]["prompts"] <= 120
    assert len(summary["attributes"]) == 8
    opposite = {"detail": "brevity", "structure": "plain-prose"}
    for one, other in opposite.items():
        assert summary["attributes"][one] == summary["attributes"][other]
    contexts = json.loads((base / "contexts.json").read_text("utf-8"))
    for pair in result.pairs:
        assert pair.attribute is not None
        assert pair.context in contexts[pair.attribute][pair.split]


def test_longer_responses_are_chosen_where_detail_is_wanted(data: Path) -> None:
    """The polarity of ratings and wishes."""
    result = read_all(DataConfig(train=str(data / "alpaca_styles" / "test.jsonl.gz")))
    longer = {
        name: [
            len(pair.chosen.split()) > len(pair.rejected.split())
            for pair in result.pairs
            if pair.attribute == name
        ]
        for name in ("detail", "brevity")
    }
    assert sum(longer["detail"]) > 0.95 * len(longer["detail"])
    assert sum(longer["brevity"]) < 0.05 * len(longer["brevity"])


def test_hh_rlhf_loads_every_turn_and_accounts_for_every_row(data: Path) -> None:
    file = data / "hh_rlhf_relabelled" / "both.jsonl.gz"
    columns = ColumnsConfig(attribute="objective")
    result = read_all(DataConfig(train=str(file), columns=columns))
    assert result.account.rows == 4043 == len(result.pairs) + len(result.account.refusals)
    assert len(result.pairs) > 3900
    assert {pair.attribute for pair in result.pairs} == {"helpful", "harmless"}
    assert sum(len(pair.prompt) >= 3 for pair in result.pairs) > 1000
    assert overlap(result) == 0
    for pair in result.pairs:
        assert pair.prompt[-1].role == "user"
        assert len(pair.prompt) % 2 == 1
