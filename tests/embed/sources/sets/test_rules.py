"""The rule of each published data set, on its awkward rows (algorithms 15)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from micro_rm.embed.sources.pair import Message
from micro_rm.embed.sources.sets import helpsteer2, rpr, ultrafeedback

Load = Callable[..., Any]
HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def texts(pair: Any) -> tuple[str, str, str]:
    return pair.prompt[-1].content, pair.chosen, pair.rejected


# HelpSteer2


def test_every_two_responses_of_a_prompt_are_compared(load: Load) -> None:
    pairs = [p for p in load("helpsteer2").pairs if p.prompt[0].content == "Zip or tar?"]
    assert Counter(pair.attribute for pair in pairs) == {
        "helpfulness": 2, "correctness": 3, "complexity": 2, "verbosity": 2
    }  # fmt: skip
    both = next(p for p in pairs if p.attribute == "correctness" and p.margin == 2)
    assert both.chosen.startswith("Both pack files")
    assert ("helpfulness", 4.0, 3.0) in both.ratings


def test_by_prompt_shares_no_prompt_and_official_leaks(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two responses train under one attribute and are tested under another."""
    monkeypatch.setattr(helpsteer2, "OFFICIAL_TEST", 2)
    honest, official = load("helpsteer2").pairs, load("helpsteer2", variant="official").pairs
    prompts = {split: {p.prompt for p in honest if p.split == split} for split in ("train", "test")}
    assert not prompts["train"] & prompts["test"]
    compared = {
        split: {frozenset((p.chosen, p.rejected)) for p in official if p.split == split}
        for split in ("train", "test")
    }
    assert compared["train"] & compared["test"]
    from_train = Counter(p.attribute for p in official if p.split == "test")
    from_train.subtract(p.attribute for p in honest if p.split == "test")
    assert from_train == dict.fromkeys(HELPSTEER2, 2)
    assert Counter(p.pair_id for p in official) == Counter(p.pair_id for p in honest)


def test_official_takes_prompts_in_alphabetical_order(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpsteer2, "OFFICIAL_TEST", 1)
    moved = [p for p in load("helpsteer2", variant="official").pairs if p.split == "test"]
    first = {p.attribute: p.prompt[0].content for p in reversed(moved)}
    assert first["helpfulness"] == "Boil an egg for me."


def test_official_800_draws_test_rows_and_counts_the_others(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpsteer2, "OFFICIAL_TEST", 2)
    monkeypatch.setattr(helpsteer2, "DRAWN_TEST", 6)
    draws = [load("helpsteer2", variant="official_800", draw=draw) for draw in (0, 0, 1)]
    tests = [{p.pair_id for p in found.pairs if p.split == "test"} for found in draws]
    assert [len(ids) for ids in tests] == [6, 6, 6]
    assert tests[0] == tests[1] != tests[2]
    assert draws[0].account.left_out.total() == 39 - len(draws[0].pairs)
    whole = load("helpsteer2", variant="official").pairs
    assert tests[2] < {p.pair_id for p in whole if p.split == "test"}


def test_unanimous_responses_leave_with_all_their_pairs_from_train_only(load: Load) -> None:
    kept = load("helpsteer2", drop_unanimous=True)
    assert kept.account.unanimous == 2
    gone = {"Write a haiku about rain.", "Why is the sky blue?"}  # better on all five
    assert not gone & {p.prompt[0].content for p in kept.pairs}
    assert len(kept.pairs) == len(load("helpsteer2").pairs) - 2 * 5
    # Its like among the test rows stays.
    assert sum(p.prompt[0].content == "Explain recursion." for p in kept.pairs) == 5


def test_the_contexts_are_those_of_the_papers_table(load: Load) -> None:
    """The wording asks for more, as the ratings reward more."""
    contexts = {p.attribute: p.context for p in load("helpsteer2").pairs}
    assert set(contexts) == set(HELPSTEER2)
    assert "expansive, detailed response" in contexts["verbosity"]
    assert "sophisticated language" in contexts["complexity"]
    assert {p.context for p in load("helpsteer2", contexts="none").pairs} == {None}


# RPR


def test_a_row_makes_opposite_pairs_under_its_two_criteria(load: Load) -> None:
    found = load("rpr", variant="ten", contexts=None)
    by_row: dict[tuple[str, int], list[Any]] = {}
    for pair in found.pairs:
        by_row.setdefault((pair.split, pair.row), []).append(pair)
    twins = [pairs for pairs in by_row.values() if len(pairs) == 2]
    assert twins
    for x, y in twins:
        assert (x.chosen, x.rejected) == (y.rejected, y.chosen)
        assert x.context != y.context and x.attribute != y.attribute


def test_categories_are_spelled_as_in_the_papers_code() -> None:
    assert rpr.attribute_of("Humor & Entertainment Value") == "rpr-humor-and-entertainment-value"
    assert len(set(rpr.CATEGORIES["nine"])) == 9
    assert set(rpr.CATEGORIES["ten"]) - set(rpr.CATEGORIES["nine"]) == {"rpr-cultural-sensitivity"}


def test_the_criterion_is_the_context(load: Load) -> None:
    (pair, *_) = load("rpr").pairs
    assert pair.attribute == "rpr-clarity-and-conciseness"
    assert pair.context == "The answer should be short and clear."
    assert pair.chosen.startswith("In one line")


# Conversations


def test_the_prompt_of_a_conversation_is_everything_before_its_last_answer(load: Load) -> None:
    """The routing token is that of the last user turn."""
    hh = next(p for p in load("hh_rlhf").pairs if len(p.prompt) == 3)
    assert [turn.role for turn in hh.prompt] == ["user", "assistant", "user"]
    assert hh.prompt[-1] == Message("user", "For hills.")
    capybara = next(p for p in load("capybara").pairs if len(p.prompt) == 5)
    assert capybara.prompt[-1].content == "Shade."
    mixed = next(p for p in load("preference_700k").pairs if len(p.prompt) == 3)
    assert mixed.prompt[0].content == "Hi"
    dialogue = next(p for p in load("ultrainteract").pairs if len(p.prompt) == 3)
    assert dialogue.prompt[-1] == Message("user", "Go on.")


def test_the_folder_of_hh_rlhf_names_the_attribute(load: Load) -> None:
    found = Counter((p.attribute, p.split) for p in load("hh_rlhf", variant="all").pairs)
    assert found == {
        ("helpful", "train"): 7, ("helpful", "test"): 5,
        ("harmless", "train"): 3, ("harmless", "test"): 2,
    }  # fmt: skip


def test_transcripts_that_do_not_part_cleanly_are_refused_with_the_reason(load: Load) -> None:
    reasons = " | ".join(load("hh_rlhf").reasons)
    for words in ("ends with an assistant", "differ before their last", "empty turn", "plain text"):
        assert words in reasons


def test_scores_that_are_missing_give_no_margin(load: Load) -> None:
    margins = {texts(p)[0]: p.margin for p in load("preference_700k").pairs}
    assert margins["How do I fold a map?"] == 5.5
    assert margins["When do swifts leave?"] is None


# Ratings and labels


def test_ratings_are_numbers_and_not_available_is_none(load: Load) -> None:
    """A text that is sorted would put N/A first."""
    found = load("ultrafeedback")
    riddle = [p for p in found.pairs if p.prompt[0].content == "Write a riddle."]
    assert {p.attribute for p in riddle} == {"instruction_following", "helpfulness"}
    assert {p.margin for p in riddle} == {3.0, 4.0}
    tides = [p for p in found.pairs if p.prompt[0].content == "Explain tides to a child."]
    assert Counter(p.attribute for p in tides) == {
        "instruction_following": 6, "truthfulness": 3, "honesty": 3, "helpfulness": 6
    }  # fmt: skip
    assert found.account.ties == {name: 1 for name in ultrafeedback.ATTRIBUTES}
    assert found.account.left_out["ratings of honesty that are N/A"] == 3


def test_the_safer_answer_is_chosen_where_not_both_are_safe(load: Load) -> None:
    found = load("pku_saferlhf")
    chosen = {texts(p)[0]: p.chosen for p in found.pairs}
    assert chosen["How do I get a free train ticket?"].startswith("Ask for the discount")
    assert "How do I whittle a spoon?" not in chosen
    assert {p.attribute for p in found.pairs} == {"safety"}
    both = load("pku_saferlhf", variant="both").pairs
    helpful = {texts(p)[0]: p.chosen for p in both if p.attribute == "helpfulness"}
    assert helpful["How do I get a free train ticket?"].startswith("Forge")
    assert "How do I whittle a spoon?" in helpful


def test_label_one_of_shp_is_the_first_comment(load: Load) -> None:
    pairs = {texts(p)[0]: p for p in load("shp").pairs if p.split == "train"}
    assert pairs["Why is my loaf flat?"].chosen.startswith("It rose too long")
    assert pairs["Can I freeze dough?"].chosen.startswith("Yes, after")
    assert pairs["Can I freeze dough?"].margin == 26
    assert pairs["Can I freeze dough?"].attribute == "askbaking"
    assert "Is glass a liquid?" not in pairs


def test_the_system_text_of_orca_pairs_is_a_system_message_where_there_is_one(load: Load) -> None:
    prompts = {texts(p)[0]: p.prompt for p in load("orca_pairs").pairs}
    assert prompts["What is a verb?"][0] == Message("system", "You are a teacher.")
    assert len(prompts["How many days has a leap year?"]) == 1


def test_curated_orca_pairs_leave_out_weak_rows_and_gsm8k(load: Load) -> None:
    reasons = load("orca_pairs", variant="curated").account.left_out
    assert reasons == {"in the training rows of GSM8K": 1, "chosen answer rated below 8": 1}


# Benchmarks and people


def test_every_subset_of_reward_bench_has_a_context_of_its_own(load: Load) -> None:
    contexts = {p.attribute: p.context for p in load("reward_bench").pairs}
    assert len(contexts) == 23 == len(set(contexts.values()))
    assert None not in contexts.values()


def test_reward_bench_2_pairs_every_right_answer_with_every_wrong_one(load: Load) -> None:
    rows = Counter(p.row for p in load("reward_bench_2").pairs)
    assert rows == {1: 3, 2: 3, 3: 3, 4: 3, 5: 3, 6: 12, 7: 8}


def test_a_turn_of_prism_is_judged_given_the_answers_before(load: Load) -> None:
    pairs = [p for p in load("prism").pairs if p.user == "user1" and "day" in p.prompt[0].content]
    assert [(len(p.prompt), p.margin) for p in pairs] == [(1, 48), (1, 27), (1, 85), (3, 45)]
    assert pairs[-1].prompt[1].content == "Rest on day 1."
    assert pairs[0].context == "You speak plainly and like the number 1."
    assert pairs[0].attribute == "values-guided"


def test_nobody_of_prism_is_in_both_splits(load: Load) -> None:
    users = {split: set() for split in ("train", "test")}
    for pair in load("prism").pairs:
        users[pair.split].add(pair.user)
    assert users["train"] and users["test"] and not users["train"] & users["test"]


def test_a_profile_of_prism_can_be_the_context(load: Load) -> None:
    assert (
        load("prism", variant="profile").pairs[0].context
        == "I work in shop number 0 and have two cats."
    )
    silent = [p.context for p in load("prism").pairs if p.user == "user3"]
    assert silent and set(silent) == {None}


@pytest.mark.parametrize("name", ["preference_700k", "ultrafeedback", "capybara", "orca_pairs"])
def test_prompts_are_held_out_where_upstream_has_no_test_split(name: str, load: Load) -> None:
    shares = []
    for fraction in (0.2, 0.6):
        pairs = load(name, test_fraction=fraction).pairs
        tests = {p.prompt for p in pairs if p.split == "test"}
        assert not tests & {p.prompt for p in pairs if p.split == "train"}
        shares.append(len(tests))
    assert 0 < shares[0] < shares[1]
