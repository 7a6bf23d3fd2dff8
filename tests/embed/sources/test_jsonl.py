"""Local preference files: shapes, optional columns, refusals; every row is accounted for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.data import ColumnsConfig
from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import DataError, Message

from .conftest import GOOD, Load, Row, WriteRows, turn

TALK = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
HUMAN = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
WHOLE: Row = {
    "chosen": [*TALK, turn("assistant", "x")],
    "rejected": [*TALK, turn("assistant", "y")],
}
SHAPES: dict[str, Row] = {
    "messages and texts": {"prompt": TALK, "chosen": "x", "rejected": "y"},
    "messages": {"prompt": TALK}
    | {name: [turn("assistant", text)] for name, text in (("chosen", "x"), ("rejected", "y"))},
    "whole conversations": WHOLE,
    "a null prompt": {"prompt": None} | WHOLE,
    "transcripts": {"chosen": f"{HUMAN}\n\nAssistant: x", "rejected": f"{HUMAN}\n\nAssistant: y"},
    "a transcript as prompt": {"prompt": HUMAN, "chosen": "x", "rejected": "y"},
}


@pytest.mark.parametrize(
    ("shape", "suffix"),
    [
        *((shape, ".jsonl") for shape in SHAPES),
        ("messages", ".jsonl.gz"),
        ("messages", ".parquet"),
        ("a null prompt", ".parquet"),
    ],
)
def test_every_shape_gives_the_same_pair(shape: str, suffix: str, load: Load) -> None:
    pairs, account = load([SHAPES[shape]], suffix)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [
        (tuple(Message(**item) for item in TALK), "x", "y")
    ]
    assert (account.rows, account.refusals) == (1, [])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_optional_columns_are_read(suffix: str, load: Load) -> None:
    labels = {"attribute": "brief", "context": "be brief", "split": "test"}
    row = GOOD | labels | {"user": 17, "margin": 2, "surplus": [1, 2]}
    ((pair,), _) = load([row], suffix)
    assert (pair.attribute, pair.context, pair.split) == tuple(labels.values())
    assert (pair.user, pair.margin, pair.source, pair.row) == ("17", 2.0, "jsonl", 1)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_label_is_none(value: str | None, load: Load) -> None:
    ((pair,), _) = load([GOOD | dict.fromkeys(("attribute", "context", "user"), value)])
    assert pair.attribute is pair.context is pair.user is None


def test_columns_may_have_other_names(load: Load) -> None:
    names = {field: f"my {field}" for field in ColumnsConfig.__dataclass_fields__}
    row = {"my prompt": "a", "my chosen": "x", "my rejected": "y", "my attribute": "b", "chosen": 3}
    ((pair,), _) = load([row], columns=ColumnsConfig(**names))
    assert (pair.prompt, pair.chosen, pair.rejected) == ((Message("user", "a"),), "x", "y")
    assert pair.attribute == "b"


def test_ratings_become_pairs_per_attribute(load: Load) -> None:
    """Ties are dropped and counted."""
    ratings = [("x", 4, 1), ("y", 2, 1), ("z", 0, 3), ("w", 1, 2)]
    pairs, account = load(
        [
            {"prompt": "a", "response": text, "help": help, "brief": brief, "source": "m"}
            for text, help, brief in ratings
        ]
    )
    assert [(p.attribute, p.chosen, p.rejected, p.margin, p.row) for p in pairs] == [
        ("help", "x", "y", 2.0, 1),
        ("help", "w", "z", 1.0, 3),
        ("brief", "z", "w", 1.0, 3),
    ]
    assert (account.rows, account.refusals, account.ties) == (4, [], {"brief": 1})


def test_only_the_attributes_asked_for_are_used(load: Load) -> None:
    rated: list[Row | str] = [
        {"prompt": "a", "response": name, "help": number, "brief": number, "n": 1.5 + number}
        for number, name in enumerate("xy")
    ]
    assert {pair.attribute for pair in load(rated).pairs} == {"help", "brief"}
    assert {pair.attribute for pair in load(rated, attributes=["n"]).pairs} == {"n"}
    labelled: list[Row | str] = [GOOD | {"attribute": name} for name in ("brief", "long", None)]
    pairs, account = load(labelled, attributes=["long"])
    assert [pair.attribute for pair in pairs] == ["long"]
    assert [(item.row, item.field) for item in account.refusals] == [
        (1, "attribute"),
        (3, "attribute"),
    ]
    assert "'brief' is not listed in data.attributes" in account.refusals[0].reason


def test_ratings_without_an_integer_column_are_an_error_with_a_remedy(load: Load) -> None:
    with pytest.raises(DataError, match=r"no integer column.*data\.attributes"):
        load([{"prompt": "a", "response": "x", "score": 0.5}])


BAD: list[tuple[Row | str, str, str]] = [
    ("{", "", "not JSON"),
    ({"prompt": "a"}, "chosen", "missing column; the row has prompt"),
    ({"prompt": "a", "chosen": "x"}, "rejected", "missing column"),
    ({"prompt": "a", "rejected": "x"}, "chosen", "missing column"),
    ({"response": "w", "help": 1}, "prompt", "missing column; the row has response, help"),
    (GOOD | {"prompt": [turn("robot", "a")]}, "prompt[0].role", "found 'robot'"),
    (GOOD | {"chosen": " \n"}, "chosen", "found an empty string"),
    (GOOD | {"rejected": 1.5}, "rejected", "found float"),
    (GOOD | {"rejected": "x"}, "rejected", "the same text"),
    ({"chosen": "x", "rejected": "y"}, "chosen", "add a prompt column"),
    (GOOD | {"attribute": ["brief"]}, "attribute", "expected text, found list"),
    (GOOD | {"attribute": "a\x00b"}, "attribute", "NUL or a lone surrogate"),
    (GOOD | {"context": "a\ud800b"}, "context", "NUL or a lone surrogate"),
    (GOOD | {"user": True}, "user", "expected text, found bool"),
    (GOOD | {"margin": "2"}, "margin", "expected a number, found str"),
    (GOOD | {"margin": math.nan}, "margin", "expected a finite number, found nan"),
    (GOOD | {"split": "dev"}, "split", "expected train or test, found 'dev'"),
]


@pytest.mark.parametrize(
    ("bad", "field", "reason"), BAD, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(BAD)]
)
def test_a_malformed_row_is_refused_and_its_neighbours_survive(
    bad: Row | str, field: str, reason: str, load: Load
) -> None:
    rated: Row = {"prompt": "a", "response": "r", "help": 1}
    rows = [GOOD, bad, GOOD | {"prompt": "b"}, rated, rated | {"response": "s", "help": 2}]
    pairs, account = load(rows)
    assert [pair.row for pair in pairs] == [1, 3, 4]
    (refusal,) = account.refusals
    assert (refusal.row, refusal.field) == (2, field)
    assert reason in refusal.reason
    assert Path(refusal.file).name == "train.jsonl"
    assert account.rows == 5


def test_an_empty_file_is_an_error_that_says_what_to_do(load: Load) -> None:
    with pytest.raises(DataError, match=r"no usable pair in 0 rows; the file is empty.*README"):
        load([])


def test_a_file_without_a_good_row_is_an_error_with_the_first_reasons(load: Load) -> None:
    rows: list[Row | str] = ["{", {"prompt": "a"}, GOOD | {"chosen": 3}, GOOD | {"chosen": 4}]
    with pytest.raises(DataError) as caught:
        load(rows)
    message = str(caught.value)
    assert "no usable pair in 4 rows (row 1: " in message
    assert "row 3: chosen expected text, found int" in message and "row 4" not in message


def test_a_source_that_cannot_be_opened_is_an_error_with_a_remedy(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [GOOD])
    config = DataConfig(train=path, test=path)
    with pytest.raises(DataError, match=r"data\.train: no training file; .*--data\.train FILE"):
        open_pairs(replace(config, train=None))
    for side in ("train", "test"):
        with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
            open_pairs(replace(config, **{side: str(tmp_path / "nowhere.jsonl")}))
    with pytest.raises(ConfigError, match=r"data\.source: expected one of .*jsonl.*found 'csv'"):
        open_pairs(DataConfig(source="csv"))
    with pytest.raises(ConfigError, match=r"data\.source: the simulator draws vectors"):
        open_pairs(DataConfig(source="simulator"))
