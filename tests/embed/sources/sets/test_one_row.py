"""One row of a data set and all that its pairs say: which answer won, its split, its margin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import PreferencePair
from micro_rm.embed.sources.sets import PUBLISHED, rpr

from .rows import EMOTIONAL, HELLO, KIND, ROWS, SAFE, TALK, said, told

Read = Callable[..., Any]
SWAPPED = {"chosen": "Bad", "rejected": "Good"}
EXACT = {"attribute": "rpr-scientific-rigor", "context": "Be exact."}
TALE = SWAPPED | {"context": "Tell a tale."}
STORY = TALE | {"attribute": "rpr-narrative-and-storytelling-quality"}
SAFETY = {"attribute": "safety"}
BREAD = {"attribute": "askbaking", "margin": 28}
# The data set, its variant, the part that the row is in, its split, what differs in the row, and
# its pairs as far as they are not Good before Bad as an answer to Hello.
CASES: list[tuple[str, str | None, str, str, dict[str, Any], list[dict[str, Any]]]] = [
    ("capybara", None, "train", "train", {}, [{"prompt": TALK, "margin": 3}]),
    ("orca_pairs", None, "train", "train", {}, [{"prompt": (KIND, HELLO)}]),
    ("orca_pairs", None, "train", "train", {"system": ""}, [{}]),
    ("orca_pairs", "curated", "train", "train", {"system": None}, [{}]),
    ("ultrainteract", None, "train", "train", {}, [{"prompt": TALK}]),
    ("reward_bench", None, "filtered", "test", {}, [{"attribute": "hep-go"}]),
    ("hh_rlhf", "all", "helpful-online-train", "train", {}, [{"attribute": "helpful"}]),
    ("hh_rlhf", None, "harmless-base-test", "test", {}, [{"attribute": "harmless"}]),
    ("shp", None, "train", "train", {}, [BREAD]),
    ("shp", None, "train", "train", {"labels": 0, "score_A": 4}, [BREAD | SWAPPED | {"margin": 8}]),
    ("shp", None, "test", "test", {"domain": "askbaking_test"}, [BREAD]),
    ("shp", "validation", "validation", "test", {"domain": "askbaking_validation"}, [BREAD]),
    ("shp", None, "test", "test", {"domain": "a_train_b"}, [BREAD | {"attribute": "a_train_b"}]),
    ("pku_saferlhf", None, "train", "train", {}, [SAFETY]),
    ("pku_saferlhf", None, "test", "test", {"safer_response_id": 1}, [SAFETY | SWAPPED]),
    ("pku_saferlhf", None, "train", "train", {"is_response_0_safe": False}, [SAFETY]),
    ("pku_saferlhf", None, "train", "train", {"better_response_id": None}, [SAFETY]),
    (
        "pku_saferlhf",
        "both",
        "train",
        "train",
        {},
        [SWAPPED | {"attribute": "helpfulness"}, SAFETY],
    ),
    ("rpr", None, "train", "train", {}, [EXACT, STORY]),
    (
        "rpr",
        "ten",
        "test",
        "test",
        {"category_y": " Cultural Sensitivity "},
        [EXACT, TALE | {"attribute": "rpr-cultural-sensitivity"}],
    ),
    (
        "reward_bench_2",
        None,
        "test",
        "test",
        {},
        [
            {"attribute": "Ties", "chosen": right, "rejected": wrong}
            for right in ("Good", "Fine")
            for wrong in ("Bad", "Worse")
        ],
    ),
    *(
        (
            "preference_700k",
            None,
            "train",
            "train",
            change,
            [{"prompt": (KIND, *TALK), "margin": m}],
        )
        for change, m in (
            ({}, 2.5),
            ({"chosen_score": 0.5}, -0.5),  # upstream's scores need not agree with its choice
            ({"chosen_score": None}, None),
            ({"rejected_score": math.nan}, None),
            ({"rejected_score": "3"}, None),
        )
    ),
]


@pytest.mark.parametrize(("name", "variant", "part", "split", "change", "expected"), CASES)
def test_a_row_makes_these_pairs_and_no_others(
    name: str,
    variant: str | None,
    part: str,
    split: str,
    change: dict[str, Any],
    expected: list[dict[str, Any]],
    read_rows: Read,
) -> None:
    found = read_rows(name, {part: [ROWS[name] | change]}, variant=variant, test_fraction=1e-9)
    usual = {"chosen": "Good", "rejected": "Bad", "split": split, "source": name, "row": 1}
    prompt = TALK if name == "hh_rlhf" else (HELLO,)
    assert found.pairs == [PreferencePair(**{"prompt": prompt} | usual | e) for e in expected]
    assert not found.account.refusals and not found.account.left_out


@pytest.mark.parametrize("name", ["capybara", "orca_pairs", "ultrainteract", "preference_700k"])
def test_prompts_are_held_out_where_upstream_has_no_test_split(name: str, read_rows: Read) -> None:
    (pair,) = read_rows(name, {"train": [ROWS[name]]}, test_fraction=1 - 1e-9).pairs
    assert pair.split == "test"


CULTURAL = {"category_y": "Cultural Sensitivity"}


@pytest.mark.parametrize(
    ("name", "variant", "change", "pairs", "reason"),
    [
        ("capybara", None, {"rating_rejected": 5}, 0, "rating"),
        # Upstream calls a row of Orca that was never rated a tie as well.
        ("orca_pairs", None, {"status": "tie", "chosen_score": None}, 0, "rating"),
        ("orca_pairs", "curated", {"chosen_score": 7.5}, 0, "chosen answer rated below 8"),
        ("orca_pairs", "curated", {"in_gsm8k_train": True}, 0, "in the training rows of GSM8K"),
        ("shp", None, {"score_A": 3}, 0, "a score is not above 3"),
        ("shp", None, {"score_B": -5}, 0, "a score is not above 3"),
        ("pku_saferlhf", None, SAFE, 0, "both responses are safe"),
        ("pku_saferlhf", "both", SAFE, 1, "both responses are safe"),
        ("rpr", None, EMOTIONAL, 1, "category rpr-emotional-tone is not one of the nine"),
        ("rpr", None, CULTURAL, 1, "category rpr-cultural-sensitivity is not one of the nine"),
    ],
)
def test_a_comparison_that_does_not_count_is_a_tie_or_left_out(
    name: str, variant: str | None, change: dict[str, Any], pairs: int, reason: str, read_rows: Read
) -> None:
    found = read_rows(name, {"train": [ROWS[name] | change]}, variant=variant)
    assert len(found.pairs) == pairs and not found.account.refusals
    assert found.account.ties | found.account.left_out == {reason: 1}
    assert bool(found.account.ties) == (reason == "rating")


@pytest.mark.parametrize(
    ("name", "change", "field", "reason"),
    [
        ("hh_rlhf", {"rejected": told("Good")}, "rejected", "same text"),
        ("hh_rlhf", {"rejected": told("")}, "rejected", "empty turn"),
        ("hh_rlhf", {"chosen": told("Good\n\nHuman: Thanks.")}, "chosen", "ends with an assistant"),
        ("hh_rlhf", {"chosen": None}, "chosen", "plain text"),
        ("capybara", {"rating_chosen": 1}, "rating_chosen", "lower than the rating of"),
        ("capybara", {"rating_rejected": None}, "rating_rejected", "expected a number"),
        ("preference_700k", {"rejected": said("Bad", *TALK)}, "rejected", "differ before"),
        ("preference_700k", {"chosen": said(" ", KIND, *TALK)}, "chosen[4].content", "empty"),
        ("orca_pairs", {"rejected": "Good"}, "rejected", "same text"),
        ("orca_pairs", {"system": 3}, "system", "expected text"),
        ("ultrainteract", {"trajectory": []}, "trajectory", "empty list"),
        ("ultrainteract", {"trajectory": 3}, "", "unexpected structure (TypeError"),
        ("reward_bench_2", {"chosen": "Good"}, "chosen", "list of texts"),
        ("reward_bench_2", {"chosen": []}, "chosen", "list of texts"),
        ("reward_bench_2", {"rejected": ["Bad", ""]}, "rejected[1]", "empty"),
        ("reward_bench_2", {"rejected": ["Fine"]}, "rejected", "both right and wrong"),
        ("shp", {"labels": 2}, "labels", "expected 0 or 1, found 2"),
        ("shp", {"labels": None}, "labels", "expected 0 or 1"),
        ("shp", {"score_B": None}, "score_B", "expected a number"),
        ("shp", {"human_ref_B": "Good"}, "human_ref_A", "same text"),
        ("shp", {"domain": ""}, "domain", "empty"),
        ("pku_saferlhf", {"safer_response_id": None}, "safer_response_id", "0 or 1, found None"),
        ("pku_saferlhf", {"safer_response_id": 2}, "safer_response_id", "0 or 1, found 2"),
        ("pku_saferlhf", {"safer_response_id": True}, "safer_response_id", "found True"),
        ("pku_saferlhf", {"is_response_0_safe": 1}, "is_response_0_safe", "true or false"),
        (
            "pku_saferlhf",
            {"is_response_0_safe": False, "is_response_1_safe": None},
            "is_response_1_safe",
            "true or false",
        ),
        ("pku_saferlhf", {"response_1": "Good"}, "response_1", "same text"),
        ("rpr", EMOTIONAL | {"criteria_y": " "}, "criteria_y", "empty"),
        ("rpr", EMOTIONAL | {"category_y": None}, "category_y", "expected text"),
        ("rpr", EMOTIONAL | {"response_b": "Good"}, "response_b", "same text"),
    ],
)
def test_a_row_that_lacks_something_is_refused_and_not_left_out_too(
    name: str, change: dict[str, Any], field: str, reason: str, read_rows: Read
) -> None:
    part = PUBLISHED[name].upstream.parts[0].name
    found = read_rows(name, {part: [ROWS[name] | change, ROWS[name]]})
    (refusal,) = found.account.refusals
    assert (refusal.row, refusal.field) == (1, field) and reason in refusal.reason
    assert {pair.row for pair in found.pairs} == {2}
    assert not found.account.left_out and not found.account.ties


def test_an_absent_score_gives_no_margin(read_rows: Read) -> None:
    row = {name: ROWS["preference_700k"][name] for name in ("chosen", "rejected")}
    assert [p.margin for p in read_rows("preference_700k", {"train": [row]}).pairs] == [None]


def test_categories_are_spelled_as_in_the_papers_code() -> None:
    assert rpr.attribute_of("Humor & Entertainment Value") == "rpr-humor-and-entertainment-value"
    assert len(set(rpr.CATEGORIES["nine"])) == 9
    assert set(rpr.CATEGORIES["ten"]) - set(rpr.CATEGORIES["nine"]) == {"rpr-cultural-sensitivity"}
