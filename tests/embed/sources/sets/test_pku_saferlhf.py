"""PKU-SafeRLHF row by row: which answer its labels choose, which rows have none that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.sets import pku_saferlhf

Read = Callable[..., Any]
ROW = {
    "prompt": "How do I open a lock?",
    "response_0": "With its key.",
    "response_1": "With a crowbar.",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
SAFE = {"is_response_0_safe": True, "is_response_1_safe": True}


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_safer_answer_is_chosen(split: str, read_rows: Read) -> None:
    prompt = (Message("user", "How do I open a lock?"),)
    key, bar = "With its key.", "With a crowbar."
    found = read_rows(pku_saferlhf.SOURCE, {split: [ROW, ROW | {"safer_response_id": 1}]})
    assert found.pairs == [
        PreferencePair(prompt, key, bar, split, "pku_saferlhf", "safety", row=1),
        PreferencePair(prompt, bar, key, split, "pku_saferlhf", "safety", row=2),
    ]


def test_both_labels_make_a_pair_each(read_rows: Read) -> None:
    found = read_rows(pku_saferlhf.SOURCE, {"train": [ROW]}, variant="both")
    assert [(pair.attribute, pair.chosen) for pair in found.pairs] == [
        ("helpfulness", "With a crowbar."),
        ("safety", "With its key."),
    ]


@pytest.mark.parametrize(("variant", "kept"), [("safety", []), ("both", ["helpfulness"])])
def test_two_safe_answers_are_no_pair_under_safety(
    variant: str, kept: list[str], read_rows: Read
) -> None:
    found = read_rows(pku_saferlhf.SOURCE, {"train": [ROW | SAFE]}, variant=variant)
    assert [pair.attribute for pair in found.pairs] == kept
    assert found.account.left_out == {"both responses are safe": 1}


def test_two_unsafe_answers_are_a_pair(read_rows: Read) -> None:
    found = read_rows(pku_saferlhf.SOURCE, {"train": [ROW | {"is_response_0_safe": False}]})
    assert [pair.chosen for pair in found.pairs] == ["With its key."]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"safer_response_id": None}, "safer_response_id"),
        ({"safer_response_id": 2}, "safer_response_id"),
        ({"safer_response_id": -1}, "safer_response_id"),
        ({"safer_response_id": True}, "safer_response_id"),
        ({"better_response_id": None}, "better_response_id"),
        ({"is_response_0_safe": 1}, "is_response_0_safe"),
        ({"is_response_0_safe": False, "is_response_1_safe": None}, "is_response_1_safe"),
        ({"response_0": ""}, "response_0"),
        ({"response_1": "With its key."}, "response_1"),
    ],
)
def test_a_row_without_a_label_or_an_answer_is_refused(
    change: dict[str, Any], field: str, read_rows: Read
) -> None:
    found = read_rows(pku_saferlhf.SOURCE, {"train": [ROW | change]}, variant="both")
    assert not found.pairs and not found.account.left_out
    assert [refusal.field for refusal in found.account.refusals] == [field]


def test_the_label_of_helpfulness_may_be_absent_where_only_safety_counts(read_rows: Read) -> None:
    row = {name: value for name, value in ROW.items() if name != "better_response_id"}
    assert len(read_rows(pku_saferlhf.SOURCE, {"train": [row]}).pairs) == 1


def test_both_attributes_have_a_context(load: Callable[..., Any]) -> None:
    contexts = {p.attribute: p.context for p in load("pku_saferlhf", variant="both").pairs}
    assert set(contexts) == {"helpfulness", "safety"} and all(contexts.values())


def test_the_default_subset_is_read() -> None:
    assert {part.subset for part in pku_saferlhf.SOURCE.upstream.parts} == {"default"}
