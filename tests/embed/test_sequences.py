"""Which conversations a data set needs, each once, and where every pair finds its own."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_rm.cache.pairs import NO_ROW
from micro_rm.configs.schema import ViewsConfig
from micro_rm.embed.chat import Conversation
from micro_rm.embed.sequences import (
    ConversationIndex,
    PoolChooser,
    choose_pool,
    conversation_of,
    prompt_group,
)
from micro_rm.embed.sources.pair import Message, PreferencePair, hash_fraction

MakePair = Callable[..., PreferencePair]
A = (Message("user", "a"),)
PLAIN = ViewsConfig(adapt_head="plain", adapt_router="plain")

PAPER = ViewsConfig(adapt_head="ctx", adapt_router="ctx")


@pytest.fixture
def pairs(make_pair: MakePair) -> list[PreferencePair]:
    """Ten training pairs per attribute, two test pairs, three without attribute or context."""
    made = [
        make_pair(f"prompt {index}", attribute=name, context=f"wish for {name}")
        for name in ("brief", "long")
        for index in range(10)
    ]
    made += [
        make_pair(f"new {index}", attribute="brief", context="wish for brief", split="test")
        for index in range(2)
    ]
    made.append(make_pair("wishless", attribute="brief"))
    return [*made, make_pair("free"), make_pair("free too", context="a wish")]


def indexed(
    pairs: list[PreferencePair], pool: np.ndarray, views: ViewsConfig
) -> tuple[list[Conversation], dict[str, np.ndarray]]:
    """The conversations of all pairs in the order of their numbers, and the columns."""
    index = ConversationIndex(views)
    conversations: list[Conversation] = []
    for pair, in_pool in zip(pairs, pool, strict=True):
        conversations += index.add(pair, in_pool=bool(in_pool))
    assert len(index) == len(conversations)
    return conversations, index.columns()


def resolved(
    pairs: list[PreferencePair], pool: np.ndarray, views: ViewsConfig
) -> list[dict[str, Conversation]]:
    """Per pair its conversations by view and role."""
    conversations, columns = indexed(pairs, pool, views)
    return [
        {
            name: conversations[column[row]]
            for name, column in columns.items()
            if column[row] != NO_ROW
        }
        for row in range(len(pairs))
    ]


def test_the_pool_takes_its_size_from_every_attribute(pairs: list[PreferencePair]) -> None:
    """Training rows only, and none without an attribute."""
    mask = choose_pool(pairs, 4, "attribute")
    chosen = [pair for pair, use in zip(pairs, mask, strict=True) if use]
    assert [pair.attribute for pair in chosen] == ["brief"] * 4 + ["long"] * 4
    assert {pair.split for pair in chosen} == {"train"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob", None]),
            st.sampled_from(["train", "test"]),
            st.booleans(),
            st.integers(0, 30),
        ),
        max_size=40,
    ),
    st.integers(0, 5),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_pool_is_what_sorting_whole_groups_would_take(
    make_pair: MakePair, rows: list[tuple[str | None, str, bool, int]], size: int
) -> None:
    pairs = [
        make_pair(f"p{number}", user=user, split=split, context="w" if stated else None)
        for user, split, stated, number in rows
    ]
    expected: set[str] = set()
    for user in ("ann", "bob"):
        group = [pair for pair in pairs if pair.user == user and pair.split == "train"]
        group.sort(key=lambda pair: (not pair.context, hash_fraction("pool", pair.pair_id)))
        expected |= {pair.pair_id for pair in group[:size]}
    mask = choose_pool(pairs, size, "user")
    assert {pair.pair_id for pair, use in zip(pairs, mask, strict=True) if use} == expected


def test_a_chooser_remembers_no_more_than_the_pool(make_pair: MakePair) -> None:
    """Data sets may be larger than memory."""
    chooser = PoolChooser(2, "attribute")
    for index in range(50):
        chooser.add(index, make_pair(f"p{index}", attribute="brief"))
    assert [len(best) for best in chooser._best.values()] == [2]


def test_every_conversation_is_numbered_once(pairs: list[PreferencePair]) -> None:
    pool = choose_pool(pairs, 4, "attribute")
    once, columns = indexed(pairs, pool, ViewsConfig())
    again, doubled = indexed(pairs + pairs, np.tile(pool, 2), ViewsConfig())
    assert len(set(once)) == len(once)
    assert again == once
    for name, column in columns.items():
        assert np.array_equal(doubled[name], np.tile(column, 2))


def test_opposite_labels_share_their_sequences(make_pair: MakePair) -> None:
    pairs = [
        make_pair("a", "x", "y", attribute="brief"),
        make_pair("a", "y", "x", attribute="long"),
    ]
    conversations, columns = indexed(pairs, np.zeros(2, bool), PLAIN)
    assert len(conversations) == 3
    chosen, rejected = columns["plain/chosen"], columns["plain/rejected"]
    assert chosen.tolist() == rejected.tolist()[::-1]


def test_a_column_is_there_for_every_view_even_if_no_pair_needs_it(make_pair: MakePair) -> None:
    _, columns = indexed([make_pair("a")], np.zeros(1, bool), PAPER)
    assert sorted(columns) == [
        f"{view}/{role}" for view in ("ctx", "plain") for role in ("chosen", "prompt", "rejected")
    ]
    assert columns["ctx/chosen"].tolist() == [NO_ROW]


def test_training_rows_need_stage_one_views_only(pairs: list[PreferencePair]) -> None:
    result = resolved(pairs, np.zeros(len(pairs), bool), PAPER)
    for row, pair in enumerate(pairs):
        view = "plain" if pair.split == "train" else "ctx"
        assert set(result[row]) == {f"{view}/{role}" for role in ("prompt", "chosen", "rejected")}


def test_pool_rows_need_both_stages(pairs: list[PreferencePair]) -> None:
    pool = choose_pool(pairs, 4, "attribute")
    result = resolved(pairs, pool, ViewsConfig(adapt_head="plain", adapt_router="context"))
    for row in np.flatnonzero(pool):
        assert set(result[row]) == {
            "plain/prompt",
            "plain/chosen",
            "plain/rejected",
            "context/prompt",
        }


def test_what_the_backbone_reads_for_a_view_and_a_role(make_pair: MakePair) -> None:
    """A pair without a context reads the plain view in place of the others."""

    def read(pair: PreferencePair, view: str) -> list[Conversation]:
        return [
            conversation_of(pair, view, role, "header", equal_prompts=False)
            for role in ("prompt", "chosen", "rejected")
        ]

    stated, without = make_pair("a", "x", "y", context="w"), make_pair("a", "x", "y")
    plain = [Conversation(A), Conversation(A, "x"), Conversation(A, "y")]
    assert read(stated, "plain") == plain
    assert read(stated, "ctx") == [item._replace(context="w") for item in plain]
    assert read(stated, "context")[0] == Conversation((Message("user", "w"),))
    for view in ("plain", "ctx", "context"):
        assert read(without, view) == plain


def test_responses_know_their_rivals_only_where_prompts_are_shortened_alike(
    make_pair: MakePair,
) -> None:
    pair = make_pair("a", "x", "y")
    for equal in (False, True):
        rivals = [
            conversation_of(pair, "plain", role, "header", equal_prompts=equal).rival
            for role in ("prompt", "chosen", "rejected")
        ]
        assert rivals == ([None, "y", "x"] if equal else [None, None, None])


def test_a_prompt_and_its_responses_are_one_group_and_a_context_makes_another() -> None:
    """Sequences of a group are packed together: they share the prefix that costs most."""
    plain = [Conversation(A), Conversation(A, "x"), Conversation(A, "y", rival="x")]
    with_context = [Conversation(A, context="w"), Conversation(A, "x", context="w")]
    other = [Conversation((Message("user", "b"),)), Conversation(A, context="w", form="bare")]
    groups = [prompt_group(conversation) for conversation in [*plain, *with_context, *other]]
    assert groups[:3] == [groups[0]] * 3
    assert groups[3] == groups[4]
    assert len(set(groups)) == 4
    assert all(0 <= group < 2**64 for group in groups)
