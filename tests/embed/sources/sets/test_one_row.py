"""One row of a data set and all that its pairs say: which answer won, its split, its margin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import published
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.published import Published
from micro_rm.embed.sources.sets import (
    capybara,
    orca_pairs,
    reward_bench,
    reward_bench_2,
    ultrainteract,
)

HELLO, AGAIN = Message("user", "Hello"), Message("user", "Again")
HI = Message("assistant", "Hi")


def said(*turns: Message) -> list[dict[str, str]]:
    return [turn._asdict() for turn in turns]


def answer(text: str) -> Message:
    return Message("assistant", text)


CAPYBARA = {
    "chosen": said(HELLO, HI, AGAIN, answer("Good")),
    "rejected": said(HELLO, HI, AGAIN, answer("Bad")),
    "rating_chosen": 5,
    "rating_rejected": 2,
}
ORCA = {
    "system": "Be kind.",
    "input": "Hello",
    "chosen": "Good",
    "rejected": "Bad",
    "status": "swapped",
    "chosen_score": 8.0,
    "in_gsm8k_train": False,
}
ULTRAINTERACT = {
    "trajectory": [
        {"from": "user", "value": "Hello"},
        {"from": "assistant", "value": "Hi"},
        {"from": "user", "value": "Again"},
    ],
    "chosen": "Good",
    "rejected": "Bad",
}
REWARD_BENCH = {"prompt": "Hello", "chosen": "Good", "rejected": "Bad", "subset": "hep-go"}
REWARD_BENCH_2 = {
    "prompt": "Hello",
    "chosen": ["Good", "Fine"],
    "rejected": ["Bad", "Worse"],
    "subset": "Ties",
}


def read(
    source: Published, index: Path, *rows: dict[str, Any], **settings: Any
) -> tuple[list[PreferencePair], Account]:
    (part,) = source.upstream.parts
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (index / f"{part.name}.jsonl").write_text(lines, "utf-8")
    account = Account()
    config = DataConfig(source=source.name, dir=str(index), **settings)
    return list(published.read(source, config, account)), account


def good_and_bad(source: Published, *prompt: Message, **more: Any) -> PreferencePair:
    pair = {"split": "train", "source": source.name, "row": 1} | more
    return PreferencePair(prompt=prompt, chosen="Good", rejected="Bad", **pair)


@pytest.mark.parametrize(
    ("source", "row", "expected"),
    [
        (
            capybara.SOURCE,
            CAPYBARA,
            good_and_bad(capybara.SOURCE, HELLO, HI, AGAIN, margin=3),
        ),
        (
            orca_pairs.SOURCE,
            ORCA,
            good_and_bad(orca_pairs.SOURCE, Message("system", "Be kind."), HELLO),
        ),
        (
            ultrainteract.SOURCE,
            ULTRAINTERACT,
            good_and_bad(ultrainteract.SOURCE, HELLO, HI, AGAIN),
        ),
    ],
)
def test_a_row_makes_one_pair_that_its_prompt_holds_out(
    source: Published, row: dict[str, Any], expected: PreferencePair, tmp_path: Path
) -> None:
    assert read(source, tmp_path, row, test_fraction=1e-9)[0] == [expected]
    (held_out,) = read(source, tmp_path, row, test_fraction=1 - 1e-9)[0]
    assert held_out.split == "test"


def test_a_row_of_reward_bench_is_a_test_row_of_its_subset(tmp_path: Path) -> None:
    expected = good_and_bad(reward_bench.SOURCE, HELLO, split="test", attribute="hep-go")
    assert read(reward_bench.SOURCE, tmp_path, REWARD_BENCH)[0] == [expected]


def test_a_row_of_reward_bench_2_makes_every_pair_of_right_and_wrong(tmp_path: Path) -> None:
    pairs, _ = read(reward_bench_2.SOURCE, tmp_path, REWARD_BENCH_2)
    expected = good_and_bad(reward_bench_2.SOURCE, HELLO, split="test", attribute="Ties")
    assert pairs[0] == expected
    assert [(pair.chosen, pair.rejected, pair.row) for pair in pairs] == [
        ("Good", "Bad", 1),
        ("Good", "Worse", 1),
        ("Fine", "Bad", 1),
        ("Fine", "Worse", 1),
    ]


@pytest.mark.parametrize("answers", ["Good", [], None])
def test_answers_of_reward_bench_2_are_a_list(answers: Any, tmp_path: Path) -> None:
    """A text would be read letter by letter."""
    pairs, account = read(reward_bench_2.SOURCE, tmp_path, REWARD_BENCH_2 | {"chosen": answers})
    (refusal,) = account.refusals
    assert not pairs and refusal.field == "chosen" and "list of texts" in refusal.reason


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (capybara.SOURCE, CAPYBARA | {"rating_rejected": 5}),
        (orca_pairs.SOURCE, ORCA | {"status": "tie", "chosen_score": None}),
    ],
)
def test_equal_ratings_are_ties_of_rating(
    source: Published, row: dict[str, Any], tmp_path: Path
) -> None:
    """Upstream calls a row of Orca that was never rated a tie as well."""
    pairs, account = read(source, tmp_path, row)
    assert not pairs and account.ties == {"rating": 1} and not account.refusals


def test_curated_starts_at_a_score_of_eight(tmp_path: Path) -> None:
    rows = [ORCA, ORCA | {"chosen_score": 7.5}, ORCA | {"in_gsm8k_train": True}]
    pairs, account = read(orca_pairs.SOURCE, tmp_path, *rows, variant="curated")
    assert [pair.row for pair in pairs] == [1]
    assert account.left_out.total() == 2


def test_the_largest_set_is_not_downloaded_by_default() -> None:
    assert ultrainteract.SOURCE.upstream.streaming
