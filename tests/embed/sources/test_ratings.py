"""Pairs of rated responses: ties are dropped and counted, neighbours or all responses compared."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.columns import rating_columns
from micro_rm.embed.sources.conversation import RowError
from micro_rm.embed.sources.pair import SAME_TEXT, Message
from micro_rm.embed.sources.ratings import RatedResponse, ResponsePairer, parse_ratings

from .conftest import Loaded

NAMES = ("help", "brief")
Pairing = Literal["adjacent", "all"]


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


def collect(
    rows: list[RatedResponse], pairing: Pairing = "adjacent", *, drop_unanimous: bool = False
) -> Loaded:
    result = Loaded([], Account())
    config = DataConfig(source="src", pairing=pairing, drop_unanimous=drop_unanimous)
    pairer = ResponsePairer(NAMES, config, result.account)
    for row in rows:
        result.pairs.extend(pairer.add(row))
    result.pairs.extend(pairer.finish())
    return result


@pytest.mark.parametrize("field", ["user", "context"])
@pytest.mark.parametrize(("values", "expected"), [("aa", "a"), ("ab", None)])
def test_the_better_rated_response_is_chosen_under_each_attribute(
    field: str, values: str, expected: str | None
) -> None:
    """A label is kept only if both rows agree."""
    rows = [
        rated(1, "p", "x", help=4, brief=0, **{field: values[0]}),
        rated(2, "p", "y", help=1, brief=3, **{field: values[1]}),
    ]
    pairs, account = collect(rows)
    assert [(p.attribute, p.chosen, p.rejected, p.margin) for p in pairs] == [
        ("help", "x", "y", 3.0),
        ("brief", "y", "x", 3.0),
    ]
    assert {(p.source, p.split, p.row, getattr(p, field)) for p in pairs} == {
        ("src", "train", 1, expected)
    }
    assert account == Account()


def test_ties_are_dropped_and_counted_per_attribute() -> None:
    numbers = [("p", "x", 4, 2), ("p", "y", 4, 3), ("q", "x", 0, 1), ("q", "y", 0, 1)]
    pairs, account = collect(
        [rated(n, *said, help=a, brief=b) for n, (*said, a, b) in enumerate(numbers)]
    )
    assert [(pair.attribute, pair.chosen) for pair in pairs] == [("brief", "y")]
    assert (account.ties, account.refusals) == ({"help": 2, "brief": 1}, [])


def test_adjacent_rows_are_compared_two_by_two_and_all_wherever_they_stand() -> None:
    near = [rated(n, "p", f"r{n}", help=n) for n in range(1, 5)]
    apart = [rated(n, prompt, f"r{n}", help=n) for n, prompt in enumerate("pqpqp", start=1)]
    sides = [
        [f"{pair.rejected}<{pair.chosen}" for pair in collect(rows, pairing).pairs]
        for rows, pairing in ((near, "adjacent"), (apart, "all"))
    ]
    assert sides == [["r1<r2", "r3<r4"], ["r1<r3", "r1<r5", "r3<r5", "r2<r4"]]
    assert collect(near).account.refusals == collect(apart, "all").account.refusals == []
    assert [refusal.row for refusal in collect(apart).account.refusals] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("pairing", ["adjacent", "all"])
def test_a_response_without_partner_in_its_split_is_refused(pairing: Pairing) -> None:
    rows = [rated(n, prompt, f"r{n}", help=n) for n, prompt in enumerate("ppq", start=1)]
    pairs, account = collect([*rows, rated(4, "q", "y", help=2, split="test")], pairing)
    assert [pair.row for pair in pairs] == [1]
    assert [(item.row, item.field, item.file, item.reason[:18]) for item in account.refusals] == [
        (3, "response", "rows.jsonl", "no second response"),
        (4, "response", "rows.jsonl", "no second response"),
    ]


def test_equal_responses_are_no_pair() -> None:
    pairs, account = collect([rated(1, "p", "x", help=1), rated(2, "p", "x", help=2)])
    assert (pairs, account.ties) == ([], Counter())
    (refusal,) = account.refusals
    assert (refusal.row, refusal.reason) == (2, f"{SAME_TEXT} (row 1)")


def test_every_pair_carries_all_ratings_of_both_responses_chosen_first() -> None:
    """Whatever attribute it is about, ties and gaps included."""
    rows = [rated(1, "p", "x", help=4, brief=0), rated(2, "p", "y", help=1, brief=3)]
    help_pair, brief_pair = collect(rows).pairs
    assert help_pair.ratings == (("help", 4.0, 1.0), ("brief", 0.0, 3.0))
    assert brief_pair.ratings == (("help", 1.0, 4.0), ("brief", 3.0, 0.0))
    tie = [rated(1, "p", "x", help=1, brief=2), rated(2, "p", "y", help=2, brief=2)]
    assert collect(tie).pairs[0].ratings[1] == ("brief", 2.0, 2.0)


def test_a_missing_rating_costs_only_its_own_attribute_and_is_never_unanimous() -> None:
    rows = [rated(1, "p", "x", help=1, brief=2), rated(2, "p", "y", help=2)]
    for drop in (False, True):
        (pair,), account = collect(rows, drop_unanimous=drop)
        assert account == Account() and pair.ratings[0] == ("help", 2.0, 1.0)
        name, chosen, rejected = pair.ratings[1]
        assert (name, math.isnan(chosen), rejected) == ("brief", True, 2.0)


@pytest.mark.parametrize(
    # Ratings of x and y under both attributes, and whether a strict preference is the same in all.
    ("first", "second", "split", "dropped"),
    [
        ((4, 4), (1, 1), "train", True),
        ((1, 0), (4, 1), "train", True),
        ((1, 0), (4, 1), "test", False),
        ((4, 1), (1, 4), "train", False),
        ((4, 4), (1, 4), "train", False),
        ((2, 2), (2, 2), "train", False),
    ],
)
def test_the_unanimity_filter_drops_whole_response_pairs_from_training_only(
    first: tuple[int, int], second: tuple[int, int], split: str, dropped: bool
) -> None:
    rows = [
        rated(number, "p", response, help=ratings[0], brief=ratings[1], split=split)
        for number, (response, ratings) in enumerate((("x", first), ("y", second)))
    ]
    kept, filtered = collect(rows), collect(rows, drop_unanimous=True)
    assert (kept.account.unanimous, filtered.account.unanimous) == (0, dropped)
    assert filtered.pairs == ([] if dropped else kept.pairs)
    assert filtered.account.ties == kept.account.ties


def test_ratings_are_numbers_and_may_be_missing() -> None:
    for value in (3.5, 0, -1):
        assert parse_ratings({"help": value, "brief": None}, NAMES) == {"help": value}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "expected a number, found bool"),
        ([3], "expected a number, found list"),
        (math.nan, "expected a finite number, found nan"),
        (10**400, "expected a finite number, found inf"),
    ],
)
def test_other_ratings_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_ratings({"help": 1, "brief": value}, NAMES)
    assert (caught.value.field, caught.value.reason) == ("brief", reason)


def test_rating_columns_are_those_with_whole_numbers_mostly() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": 1, "help": 4, "brief": 0, "score": 0.5, "flag": True, "source": "m"},
        {"prompt": 2, "help": 1, "score": 1, "flag": False, "late": 2, "none": None},
    ]
    assert rating_columns(rows, {"prompt"}) == ("help", "brief", "late")


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
    """Ten whole numbers that are all different are numbers of rows."""
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
    content: list[tuple[str, str, int, int]], pairing: Pairing
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
