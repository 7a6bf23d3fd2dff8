"""preference_700K row by row: whole conversations, scores that may be missing, no split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.sets import preference_700k

Read = Callable[..., Any]
PROMPT = (
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi"),
    Message("user", "A joke?"),
)


def said(answer: str, prompt: tuple[Message, ...] = PROMPT) -> list[dict[str, str]]:
    return [turn._asdict() for turn in (*prompt, Message("assistant", answer))]


ROW = {
    "chosen": said("Two peanuts met."),
    "rejected": said("No."),
    "chosen_score": 3.5,
    "rejected_score": 1.0,
}


def test_a_row_is_a_pair_without_attribute_or_context(read_rows: Read) -> None:
    assert read_rows(preference_700k.SOURCE, {"train": [ROW]}, test_fraction=1e-9).pairs == [
        PreferencePair(
            PROMPT, "Two peanuts met.", "No.", "train", "preference_700k", margin=2.5, row=1
        )
    ]


@pytest.mark.parametrize("score", [None, math.nan, math.inf, 10**400, "3", True])
@pytest.mark.parametrize("column", ["chosen_score", "rejected_score"])
def test_a_score_that_is_no_finite_number_gives_no_margin(
    column: str, score: Any, read_rows: Read
) -> None:
    found = read_rows(preference_700k.SOURCE, {"train": [ROW | {column: score}]})
    assert [pair.margin for pair in found.pairs] == [None]


def test_a_margin_keeps_its_sign_and_a_pair_its_row(read_rows: Read) -> None:
    """Upstream's scores need not agree with its choice."""
    found = read_rows(preference_700k.SOURCE, {"train": [ROW, ROW | {"chosen_score": 0.5}]})
    assert [(pair.row, pair.margin) for pair in found.pairs] == [(1, 2.5), (2, -0.5)]


def test_scores_may_be_absent(read_rows: Read) -> None:
    row = {name: ROW[name] for name in ("chosen", "rejected")}
    assert [p.margin for p in read_rows(preference_700k.SOURCE, {"train": [row]}).pairs] == [None]


def test_prompts_are_held_out_by_their_content(read_rows: Read) -> None:
    last = Message("user", "And you?")
    prompts = [
        (Message("user", f"I am {n}"), Message("assistant", "I see"), last) for n in range(60)
    ]
    rows = [{"chosen": said("Yes", prompt), "rejected": said("No", prompt)} for prompt in prompts]
    splits = {
        fraction: [
            pair.split
            for pair in read_rows(
                preference_700k.SOURCE, {"train": rows}, test_fraction=fraction
            ).pairs
        ]
        for fraction in (1e-9, 0.5, 1 - 1e-9)
    }
    assert set(splits[1e-9]) == {"train"} and set(splits[1 - 1e-9]) == {"test"}
    assert 15 < splits[0.5].count("test") < 45


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"rejected": said("Two peanuts met.")}, "rejected", "same text"),
        ({"rejected": said("No.", PROMPT[1:])}, "rejected", "differ before"),
        ({"chosen": said(" ")}, "chosen[4].content", "empty"),
        ({"chosen": "Two peanuts met."}, "chosen", "plain text"),
    ],
)
def test_a_row_whose_conversations_do_not_fit_is_refused(
    change: dict[str, Any], field: str, reason: str, read_rows: Read
) -> None:
    found = read_rows(preference_700k.SOURCE, {"train": [ROW | change]})
    (refusal,) = found.account.refusals
    assert not found.pairs and refusal.field == field and reason in refusal.reason


def test_it_is_streamed_and_its_parts_licences_are_named() -> None:
    upstream = preference_700k.SOURCE.upstream
    assert upstream.streaming and upstream.licence == "not stated"
    for words in ("CC-BY-NC-4.0", "Reddit", "Apache-2.0", "MIT"):
        assert words in upstream.terms
