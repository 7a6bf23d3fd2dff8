"""Pairs of rated responses: ties are dropped and counted, neighbours or all responses compared."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.columns import rating_columns
from micro_rm.embed.sources.conversation import RowError
from micro_rm.embed.sources.pair import SAME_TEXT, Message, PreferencePair
from micro_rm.embed.sources.ratings import RatedResponse, ResponsePairer, parse_ratings

NAMES = ("help", "brief")


def rated(row: int, prompt: str, response: str, **fields: Any) -> RatedResponse:
    ratings = {name: float(fields.pop(name)) for name in NAMES if name in fields}
    defaults = {"split": "train", "user": None, "context": None, "file": "rows.jsonl"}
    return RatedResponse(
        row=row,
        prompt=(Message("user", prompt),),
        response=response,
        ratings=ratings,
        **(defaults | fields),
    )


class Paired(NamedTuple):
    """The pairs of a comparison and its account."""

    pairs: list[PreferencePair]
    account: Account


def collect(
    rows: list[RatedResponse],
    pairing: Literal["adjacent", "all"] = "adjacent",
    *,
    drop_unanimous: bool = False,
) -> Paired:
    result = Paired([], Account())
    config = DataConfig(source="src", pairing=pairing, drop_unanimous=drop_unanimous)
    pairer = ResponsePairer(NAMES, config, result.account)
    for row in rows:
        result.pairs.extend(pairer.add(row))
    result.pairs.extend(pairer.finish())
    return result


def test_the_better_rated_response_is_chosen_under_each_attribute() -> None:
    rows = [rated(1, "p", "x", help=4, brief=0), rated(2, "p", "y", help=1, brief=3)]
    result = collect(rows)
    assert [(p.attribute, p.chosen, p.rejected, p.margin) for p in result.pairs] == [
        ("help", "x", "y", 3.0),
        ("brief", "y", "x", 3.0),
    ]
    assert {(p.source, p.split, p.row) for p in result.pairs} == {("src", "train", 1)}
    assert (result.account.refusals, result.account.ties, result.account.unanimous) == (
        [],
        Counter(),
        0,
    )


def test_ties_are_dropped_and_counted_per_attribute() -> None:
    result = collect(
        [
            rated(1, "p", "x", help=4, brief=2),
            rated(2, "p", "y", help=4, brief=3),
            rated(3, "q", "x", help=0, brief=1),
            rated(4, "q", "y", help=0, brief=1),
        ]
    )
    assert [(pair.attribute, pair.chosen) for pair in result.pairs] == [("brief", "y")]
    assert result.account.ties == {"help": 2, "brief": 1}
    assert result.account.refusals == []


def test_adjacent_rows_are_compared_two_by_two() -> None:
    result = collect([rated(n, "p", f"r{n}", help=n) for n in range(1, 5)])
    assert [(pair.rejected, pair.chosen) for pair in result.pairs] == [("r1", "r2"), ("r3", "r4")]
    assert result.account.refusals == []


def test_all_responses_of_a_prompt_are_compared_wherever_they_stand() -> None:
    rows = [
        rated(number, prompt, f"r{number}", help=number)
        for number, prompt in enumerate("pqpqp", start=1)
    ]
    result = collect(rows, "all")
    assert {(pair.rejected, pair.chosen) for pair in result.pairs} == {
        ("r1", "r3"),
        ("r1", "r5"),
        ("r3", "r5"),
        ("r2", "r4"),
    }
    assert result.account.refusals == []
    assert [refusal.row for refusal in collect(rows).account.refusals] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("pairing", ["adjacent", "all"])
def test_a_response_without_partner_is_refused(pairing: Literal["adjacent", "all"]) -> None:
    rows = [rated(n, prompt, f"r{n}", help=n) for n, prompt in enumerate("ppq", start=1)]
    result = collect(rows, pairing)
    assert len(result.pairs) == 1
    (refusal,) = result.account.refusals
    assert (refusal.row, refusal.field, refusal.file) == (3, "response", "rows.jsonl")
    assert "no second response" in refusal.reason


def test_equal_responses_are_no_pair() -> None:
    result = collect([rated(1, "p", "x", help=1), rated(2, "p", "x", help=2)])
    assert (result.pairs, result.account.ties) == ([], Counter())
    (refusal,) = result.account.refusals
    assert (refusal.row, refusal.reason) == (2, f"{SAME_TEXT} (row 1)")


@pytest.mark.parametrize("pairing", ["adjacent", "all"])
def test_splits_are_never_mixed(pairing: Literal["adjacent", "all"]) -> None:
    rows = [rated(1, "p", "x", help=1), rated(2, "p", "y", help=2, split="test")]
    result = collect(rows, pairing)
    assert result.pairs == []
    assert len(result.account.refusals) == 2


@pytest.mark.parametrize("field", ["user", "context"])
@pytest.mark.parametrize(
    ("values", "expected"), [(("a", "a"), "a"), (("a", "b"), None), ((None, "a"), None)]
)
def test_a_label_is_kept_only_if_both_rows_agree(
    field: str, values: tuple[str | None, str], expected: str | None
) -> None:
    rows = [rated(n, "p", f"r{n}", help=n, **{field: values[n]}) for n in range(2)]
    (pair,) = collect(rows).pairs
    assert getattr(pair, field) == expected


def test_a_missing_rating_costs_only_its_own_attribute() -> None:
    result = collect([rated(1, "p", "x", help=1, brief=1), rated(2, "p", "y", brief=2)])
    assert [pair.attribute for pair in result.pairs] == ["brief"]
    assert (result.account.refusals, result.account.ties) == ([], Counter())


def test_every_pair_carries_all_ratings_of_both_responses_chosen_first() -> None:
    """Whatever attribute it is about, ties and gaps included."""
    rows = [rated(1, "p", "x", help=4, brief=0), rated(2, "p", "y", help=1, brief=3)]
    help_pair, brief_pair = collect(rows).pairs
    assert help_pair.ratings == (("help", 4.0, 1.0), ("brief", 0.0, 3.0))
    assert brief_pair.ratings == (("help", 1.0, 4.0), ("brief", 3.0, 0.0))
    (pair,) = collect([rated(1, "p", "x", help=1, brief=2), rated(2, "p", "y", help=2)]).pairs
    assert pair.ratings[0] == ("help", 2.0, 1.0)
    name, chosen, rejected = pair.ratings[1]
    assert (name, math.isnan(chosen), rejected) == ("brief", True, 2.0)
    (tied,) = collect(
        [rated(1, "p", "x", help=1, brief=2), rated(2, "p", "y", help=2, brief=2)]
    ).pairs
    assert tied.ratings[1] == ("brief", 2.0, 2.0)


def test_ratings_are_no_part_of_a_pairs_identity() -> None:
    """The same comparison with another grade is the same pair."""
    (one,) = collect([rated(1, "p", "x", help=1), rated(2, "p", "y", help=2)]).pairs
    (other,) = collect([rated(1, "p", "x", help=0), rated(2, "p", "y", help=4)]).pairs
    assert one.ratings != other.ratings
    assert one.pair_id == other.pair_id


UNANIMITY = [
    # ratings of x and y under both attributes, and whether all of them agree
    ((4, 4), (1, 1), True),
    ((1, 0), (4, 1), True),
    ((4, 1), (1, 4), False),
    ((4, 4), (1, 4), False),
    ((2, 2), (2, 2), False),
]


@pytest.mark.parametrize(("first", "second", "unanimous"), UNANIMITY)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_unanimity_filter_drops_whole_response_pairs_from_training_only(
    first: tuple[int, int], second: tuple[int, int], unanimous: bool, split: str
) -> None:
    """A strict preference under every attribute, always in the same direction."""
    rows = [
        rated(number, "p", response, help=ratings[0], brief=ratings[1], split=split)
        for number, (response, ratings) in enumerate((("x", first), ("y", second)))
    ]
    kept, filtered = collect(rows), collect(rows, drop_unanimous=True)
    dropped = unanimous and split == "train"
    assert filtered.account.unanimous == dropped
    assert filtered.pairs == ([] if dropped else kept.pairs)
    assert filtered.account.ties == kept.account.ties
    assert kept.account.unanimous == 0


def test_a_pair_that_lacks_a_rating_is_never_unanimous() -> None:
    rows = [rated(1, "p", "x", help=1), rated(2, "p", "y", help=2, brief=3)]
    assert len(collect(rows, drop_unanimous=True).pairs) == 1


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (3.5, 3.5), (0, 0.0), (-1, -1.0)])
def test_ratings_are_numbers(value: float, expected: float) -> None:
    assert parse_ratings({"help": value, "brief": None}, NAMES) == {"help": expected}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3", "expected a number, found str"),
        (True, "expected a number, found bool"),
        ([3], "expected a number, found list"),
        (math.nan, "expected a finite number, found nan"),
        (math.inf, "expected a finite number, found inf"),
    ],
)
def test_other_ratings_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_ratings({"help": 1, "brief": value}, NAMES)
    assert (caught.value.field, caught.value.reason) == ("brief", reason)


def test_rating_columns_are_those_with_whole_numbers_mostly() -> None:
    rows = [
        {
            "prompt": 1,
            "help": 4,
            "brief": 0,
            "score": 0.5,
            "flag": True,
            "source": "m",
            "none": None,
        },
        {"prompt": 2, "help": 1, "score": 1, "flag": False, "late": 2, "none": None},
    ]
    assert rating_columns(rows, {"prompt"}) == ("help", "brief", "late")


@pytest.mark.parametrize(("number", "expected"), [(9, ("help", "id")), (10, ("help",))])
def test_a_row_number_is_no_rating(number: int, expected: tuple[str, ...]) -> None:
    rows = [{"help": index % 4, "id": index} for index in range(number)]
    assert rating_columns(rows, set()) == expected


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["help", "id", "known"]),
            st.none() | st.integers(-4, 9) | st.booleans() | st.floats() | st.sampled_from("xy"),
        ),
        max_size=14,
    )
    | st.lists(st.fixed_dictionaries({"help": st.integers(0, 30), "id": st.integers()}))
)
def test_columns_seen_row_by_row_are_those_that_a_look_at_all_values_finds(
    rows: list[dict[str, Any]],
) -> None:
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "known" and value is not None:
                values.setdefault(name, []).append(value)
    expected = tuple(
        name
        for name, column in values.items()
        if (whole := [value for value in column if type(value) is int])
        and len(whole) > len(column) / 2
        and (len(whole) < 10 or len(set(whole)) < len(whole))
    )
    assert rating_columns(iter(rows), {"known"}) == expected


RATED = st.lists(
    st.tuples(
        st.sampled_from("pqr"), st.sampled_from("uvwxyz"), st.integers(0, 2), st.integers(0, 2)
    ),
    max_size=16,
)


@settings(max_examples=150, deadline=None)
@given(RATED, st.sampled_from(["adjacent", "all"]))
def test_every_comparison_is_a_pair_a_tie_or_a_refusal(
    content: list[tuple[str, str, int, int]], pairing: Literal["adjacent", "all"]
) -> None:
    rows = [
        rated(number, prompt, response, help=a, brief=b)
        for number, (prompt, response, a, b) in enumerate(content)
    ]
    result = collect(rows, pairing)
    equal = [refusal for refusal in result.account.refusals if refusal.reason.startswith(SAME_TEXT)]
    alone = [
        refusal for refusal in result.account.refusals if refusal.reason.startswith("no second")
    ]
    assert len(equal) + len(alone) == len(result.account.refusals)
    if pairing == "all":
        sizes = Counter(prompt for prompt, *_ in content)
        compared = sum(len(list(combinations(range(size), 2))) for size in sizes.values())
        assert len(alone) == sum(size == 1 for size in sizes.values())
    else:
        compared = (len(rows) - len(alone)) // 2
    assert len(result.pairs) + result.account.ties.total() == 2 * (compared - len(equal))
    assert all(pair.margin is not None and pair.margin > 0 for pair in result.pairs)


@settings(max_examples=60, deadline=None)
@given(RATED, st.integers(0, 2**32 - 1))
def test_comparing_all_does_not_depend_on_the_order_of_the_rows(
    content: list[tuple[str, str, int, int]], seed: int
) -> None:
    rows = [
        rated(number, prompt, response, help=a, brief=b)
        for number, (prompt, response, a, b) in enumerate(content)
    ]
    shuffled = random.Random(seed).sample(rows, len(rows))
    first, second = collect(rows, "all"), collect(shuffled, "all")
    assert Counter(pair.pair_id for pair in first.pairs) == Counter(
        pair.pair_id for pair in second.pairs
    )
    assert first.account.ties == second.account.ties
