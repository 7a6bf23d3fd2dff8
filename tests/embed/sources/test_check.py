"""The summary of a data set: counts, overlaps, percentiles and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.sources import PairSource
from micro_rm.embed.sources.check import Tally, summarise
from micro_rm.embed.sources.facts import Contradictions, WordCounts
from micro_rm.embed.sources.pair import SAME_TEXT, DataError, Message, PreferencePair, Refusal

MakePair = Callable[..., PreferencePair]
SourceOf = Callable[..., PairSource]


def tally(pairs: Iterable[PreferencePair]) -> Tally:
    result = Tally()
    for pair in pairs:
        result.add(pair)
    return result


def test_counts_of_a_small_data_set(make_pair: MakePair, source_of: SourceOf) -> None:
    pairs = [
        make_pair("one two", "a b c", "d", attribute="brief", context="w", user="ann"),
        make_pair("one two", "d", "a b c", attribute="long", user="bob"),
        make_pair("one two", "d", "a b c", attribute="long", user="bob", row=9),
        make_pair("three", "x", "y", attribute="brief", split="test"),
        make_pair("one two", "x", "y", split="test"),
    ]
    refusals = [Refusal(4, "chosen", "bad", "rows.jsonl"), Refusal(5, "rejected", SAME_TEXT)]
    ties = Counter(brief=2, even=1)
    result = summarise(source_of(pairs, refusals=refusals, rows=7, ties=ties, unanimous=3))
    assert (result["rows"], result["pairs"], result["refused"]) == (7, 5, 2)
    assert (result["unanimous"], result["chosen_equals_rejected"]) == (3, 1)
    assert result["sources"]["test"]["left_out"] == 3
    assert result["splits"] == {
        "train": {"pairs": 3, "prompts": 1},
        "test": {"pairs": 2, "prompts": 2},
    }
    assert result["attributes"] == {
        "brief": {"train": 1, "test": 1, "ties": 2, "contexts": 1},
        "long": {"train": 2, "test": 0, "ties": 0, "contexts": 0},
        "(none)": {"train": 0, "test": 1, "ties": 0, "contexts": 0},
        "even": {"train": 0, "test": 0, "ties": 1, "contexts": 0},
    }
    assert result["ties"] == {"brief": 2, "even": 1}
    assert (result["duplicates"], result["contradictions"]) == (1, 3)
    assert (result["prompt_overlap"], result["with_context"], result["users"]) == (1, 1, 2)
    assert result["words"]["chosen"]["p100"] == 3
    assert result["words"]["prompt"] == {
        "p0": 1, "p5": 1, "p25": 2, "p50": 2, "p75": 2, "p95": 2, "p100": 2
    }  # fmt: skip
    assert result["refusals"] == [
        {"row": 4, "field": "chosen", "reason": "bad", "file": "rows.jsonl"},
        {"row": 5, "field": "rejected", "reason": SAME_TEXT, "file": ""},
    ]


def test_warnings_say_what_is_wrong(make_pair: MakePair, source_of: SourceOf) -> None:
    def warnings(test_rows: int, **fields: str) -> str:
        pairs = [make_pair("p", attribute="brief", **fields) for _ in range(2)]
        pairs.append(make_pair("q", attribute="long"))
        pairs += [
            make_pair("p", f"c{n}", attribute="brief", split="test") for n in range(test_rows)
        ]
        return "\n".join(summarise(source_of(pairs))["warnings"])

    for words in (
        "1 prompts occur in both train and test",
        "1 pairs repeat an earlier one exactly",
        "attribute long has no test rows",
        "attribute brief has only 1 test rows",
        "no pair has a context",
    ):
        assert words in warnings(1)
    assert "attribute brief has only 29 test rows" in warnings(29)
    assert "attribute brief" not in warnings(30)
    assert "no pair of long has a context" in warnings(1, context="w")


def test_a_clean_data_set_has_no_warnings(make_pair: MakePair, source_of: SourceOf) -> None:
    pairs = [
        make_pair(f"{split} {index}", attribute="brief", context="w", split=split)
        for split in ("train", "test")
        for index in range(30)
    ]
    assert summarise(source_of(pairs))["warnings"] == []


def test_the_percentiles_of_nothing_are_empty() -> None:
    assert WordCounts().percentiles() == {"prompt": {}, "chosen": {}, "rejected": {}}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("pq"), st.sampled_from(["uv", "vu", "uw"]), st.booleans()),
        max_size=12,
    )
)
def test_contradictions_are_those_that_comparing_all_pairs_finds(
    make_pair: MakePair, content: list[tuple[str, str, bool]]
) -> None:
    """Contradictions are counted as pairs arrive, from digests, whatever their order."""
    pairs = [make_pair(prompt, *texts, attribute=str(late)) for prompt, texts, late in content]
    result, repeated = Contradictions(), tally(pairs).duplicates.total()
    for pair in pairs:
        result.add(pair)
    seen = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}
    assert result.count == sum((p.prompt, p.rejected, p.chosen) in seen for p in pairs)
    assert repeated == len(pairs) - len({pair.pair_id for pair in pairs})


def test_overlap_is_about_whole_prompts(make_pair: MakePair) -> None:
    longer = (Message("user", "p"), Message("assistant", "x"), Message("user", "q"))
    pairs = [make_pair("p"), make_pair(longer, split="test"), make_pair("q", split="test")]
    assert tally(pairs).prompt_overlap == 0
    assert tally([*pairs, make_pair("p", "other", split="test")]).prompt_overlap == 1


def test_attributes_that_nothing_would_score_are_refused(make_pair: MakePair) -> None:
    train = [make_pair(f"p{n}", attribute="brief") for n in range(3)]
    test = make_pair("q", attribute="brief", split="test")
    tally([*train, test]).require_both_splits()
    tally(
        [*train, test, make_pair("q", attribute="only tested", split="test")]
    ).require_both_splits()
    with pytest.raises(DataError, match=r"all 1 pairs are test rows.*--data\.train"):
        tally([test]).require_both_splits()
    with pytest.raises(DataError, match=r"no test rows for attribute brief \(3 training rows\)"):
        tally(train).require_both_splits()
    with pytest.raises(DataError, match=r"\(none\) \(1 training rows\).*data\.test_fraction"):
        tally([*train, test, make_pair("x")]).require_both_splits()
