"""HH-RLHF row by row: where the prompt ends, and which folder says what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.sources.sets import hh_rlhf

Read = Callable[..., Any]


def row(chosen: str, rejected: str, before: str = "\n\nHuman: Tea?\n\nAssistant: ") -> Any:
    return {"chosen": before + chosen, "rejected": before + rejected}


LONG = "\n\nHuman: Tea?\n\nAssistant: Green?\n\nHuman: Black.\nAnd hot.\n\nAssistant: "


@pytest.mark.parametrize("folder", hh_rlhf.FOLDERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_folder_names_attribute_and_split(folder: str, split: str, read_rows: Read) -> None:
    rows = {f"{folder}-{split}": [row("Four minutes.", "No.", LONG)]}
    assert read_rows(hh_rlhf.SOURCE, rows, variant="all").pairs == [
        PreferencePair(
            prompt=(
                Message("user", "Tea?"),
                Message("assistant", "Green?"),
                Message("user", "Black.\nAnd hot."),
            ),
            chosen="Four minutes.",
            rejected="No.",
            split=split,
            source="hh_rlhf",
            attribute="harmless" if folder == "harmless-base" else "helpful",
            row=1,
        )
    ]


def test_base_reads_the_two_base_folders(read_rows: Read) -> None:
    found = read_rows(hh_rlhf.SOURCE, {part.name: [row("A", "B")] for part in hh_rlhf.PARTS})
    assert [table.part for table in found.account.upstream] == [
        "helpful-base-train",
        "helpful-base-test",
        "harmless-base-train",
        "harmless-base-test",
    ]
    assert len(found.pairs) == 4


def test_a_part_is_a_folder_and_a_split_of_the_hub() -> None:
    part = hh_rlhf.SOURCE.upstream.part("helpful-rejection-sampled-test")
    assert (part.folder, part.split, part.rows) == ("helpful-rejection-sampled", "test", 2_749)
    assert len(hh_rlhf.PARTS) == 8


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("Four minutes.", "Four minutes."), "same text"),
        (row("Four minutes.", ""), "empty turn"),
        (row("", "Four minutes."), "empty turn"),
        (row("Four.\n\nHuman: Thanks.", "No."), "ends with an assistant"),
        (row("Four.\n\nHuman: Thanks.\n\nAssistant: Enjoy.", "No."), "differ before"),
        (row("A", "B", "\n\nHuman: Tea?\n\nHuman: Tea!\n\nAssistant: "), "two user turns"),
        (row("A", "B", "\n\nAssistant: "), "plain text"),
        ({"chosen": None, "rejected": "B"}, "plain text"),
    ],
)
def test_a_row_that_does_not_part_into_prompt_and_answers_is_refused(
    bad: Any, reason: str, read_rows: Read
) -> None:
    found = read_rows(hh_rlhf.SOURCE, {"helpful-base-train": [bad, row("A", "B")]})
    (refusal,) = found.account.refusals
    assert refusal.row == 1 and reason in refusal.reason
    assert [pair.row for pair in found.pairs] == [2]


def test_the_terms_warn_of_its_text() -> None:
    assert "offensive" in hh_rlhf.SOURCE.upstream.terms
