"""From data to a plan: whatever the order of the data, each sequence once, and nothing else."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_rm.cache.pairs import NO_ROW
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, sequence_key
from micro_rm.configs.schema import Config, EmbedConfig
from micro_rm.embed import planner, tokenize
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.planner import cut_shards, make_plan
from micro_rm.embed.sequences import choose_pool, conversation_of
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import DataError

PlanRows = Callable[..., tuple[Config, Plan]]
EmbedRows = Callable[..., Any]
LoadEncoder = Callable[..., Encoder]
Rows = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def plan_rows(plan: Callable[..., Any], write_rows: Callable[..., str], tmp_path: Path) -> PlanRows:
    """``plan_rows(rows, family="llama", store="store", **settings)``: configuration and plan."""

    def make(
        rows: list[dict[str, Any]], family: str = "llama", store: str = "store", **changes: Any
    ) -> tuple[Config, Plan]:
        file = write_rows(tmp_path / "rows.jsonl", rows)
        return plan(family, file, tmp_path / store, **changes)

    return make


@pytest.fixture
def embed_rows(
    embed: Callable[..., Any], write_rows: Callable[..., str], tmp_path: Path
) -> EmbedRows:
    """``embed_rows(rows, store="store")``: runs the job."""

    def make(rows: list[dict[str, Any]], store: str = "store") -> Any:
        return embed("llama", write_rows(tmp_path / "embedded.jsonl", rows), tmp_path / store)

    return make


def planned(plan: Plan) -> list[int]:
    """The sequences of all bins, in order."""
    return [
        int(number)
        for shard in range(plan.facts.shards)
        for _, members in plan.bins(shard)
        for number in members
    ]


def spelled(plan: Plan) -> list[tuple[int, ...]]:
    """Their tokens."""
    return [tuple(plan.sequence(number).tolist()) for number in planned(plan)]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_every_distinct_sequence_is_in_exactly_one_bin_and_counted(
    family: str, plan_rows: PlanRows, preference_rows: Rows
) -> None:
    _, made = plan_rows(preference_rows(40), family)
    facts, numbers = made.facts, planned(made)
    assert sorted(numbers) == list(range(facts.sequences))
    assert len(set(spelled(made))) == facts.sequences
    for number in numbers:
        ids = made.sequence(number)
        assert made.keys[number] == np.array(sequence_key(ids), KEY_DTYPE)
        assert made.lengths[number] == len(ids)
    bins = [item for shard in range(facts.shards) for item in made.bins(shard)]
    assert (facts.job, facts.name, facts.pairs, facts.stored) == ("job", "rows", 40, 0)
    assert (facts.first_shard, facts.shortened, facts.width) == (0, 0, 32)
    assert (facts.bin_tokens, facts.sharing) == (256, family == "llama")
    assert facts.bins == len(bins)
    assert facts.tokens == sum(tokens for tokens, _ in bins)
    assert facts.tokens == sum(made.shard_tokens(shard) for shard in range(facts.shards))
    assert facts.separate_tokens == made.lengths.sum() >= facts.tokens
    assert (facts.tokens == facts.separate_tokens) == (family == "bert")  # which shares nothing
    assert facts.fill == facts.tokens / (facts.bins * 256) <= 1


def test_every_pair_finds_its_conversations_among_the_sequences(
    plan_rows: PlanRows, encoder: LoadEncoder, preference_rows: Rows
) -> None:
    """The tokens behind a column are those of the pair's own text; the pool is that of the data."""
    config, made = plan_rows(preference_rows(40))
    pairs, checked = list(open_pairs(config.data)), 0
    for index, pair in enumerate(pairs):
        for name, column in made.columns.items():
            if column[index] == NO_ROW:
                continue
            view, _, role = name.partition("/")
            conversation = conversation_of(pair, view, role, "header", equal_prompts=False)
            expected = encoder("llama").renderer.token_ids([conversation])[0]
            actual = made.sequence(made.sequence_of[column[index]])
            assert actual.tolist() == expected.tolist()
            checked += 1
    assert checked > 40 * 3
    assert np.array_equal(made.pool, choose_pool(pairs, config.adapt.pool, "attribute"))
    assert 0 < made.pool.sum() < len(pairs)


@pytest.mark.long
def test_the_order_of_the_data_changes_no_byte_of_a_shard(
    embed_rows: EmbedRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """The bins depend on the set of sequences only."""
    rows = preference_rows(40)
    shuffled = random.Random(1).sample(rows, len(rows))
    contents = []
    for name, content in (("a", rows), ("b", shuffled), ("c", [*rows, *shuffled])):
        embed_rows(content, name)
        paths = sorted((tmp_path / name / "shards").iterdir())
        contents.append([(path.name, path.read_bytes()) for path in paths])
    assert len(contents[0]) > 3
    assert contents[0] == contents[1] == contents[2]


def test_only_what_the_store_lacks_is_planned(
    plan_rows: PlanRows, embed_rows: EmbedRows, preference_rows: Rows, tmp_path: Path
) -> None:
    embed_rows(preference_rows(16))
    store = FeatureStore(tmp_path / "store")
    stored, shards = set(store.keys().tolist()), len(store.manifest.shards)
    _, made = plan_rows(preference_rows(24))
    _, alone = plan_rows(preference_rows(24), store="nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert 0 < made.facts.stored == len(stored & set(alone.keys.tolist()))
    assert {made.keys[n] for n in planned(made)} == set(alone.keys.tolist()) - stored
    assert made.facts.sequences == alone.facts.sequences == made.facts.stored + len(planned(made))
    assert made.facts.first_shard == shards


def test_a_finished_job_has_nothing_left_to_do(
    plan_rows: PlanRows, embed_rows: EmbedRows, preference_rows: Rows, tmp_path: Path
) -> None:
    embed_rows(preference_rows(16))
    _, made = plan_rows(preference_rows(16))
    facts = made.facts
    assert (facts.bins, facts.shards, facts.tokens, facts.separate_tokens) == (0, 0, 0, 0)
    assert facts.stored == facts.sequences > 0
    assert made.pending(tmp_path / "store") == []


def test_a_pair_with_one_refused_sequence_is_left_out_and_so_is_what_only_it_needs(
    plan_rows: PlanRows, encoder: LoadEncoder, preference_rows: Rows
) -> None:
    """One long response takes its pair along, not its neighbours."""
    rows = preference_rows(16)
    rows[5]["rejected"] = "word " * 100
    config, made = plan_rows(rows, max_length=90)
    assert made.keep.tolist() == [index != 5 for index in range(16)]
    assert made.facts.pairs == 15
    assert all("max_length is 90" in reason for reason in made.refusals.values())
    pair = list(open_pairs(config.data))[5]
    renderer = encoder("llama", max_length=90).renderer

    def key(role: str) -> bytes:
        conversation = conversation_of(pair, "plain", role, "header", equal_prompts=False)
        return np.array(sequence_key(renderer.token_ids([conversation])[0]), KEY_DTYPE).item()

    keys = made.keys.tolist()
    assert key("chosen") not in keys
    assert key("prompt") in keys  # its neighbour asks the same
    column = made.columns["plain/chosen"]
    assert made.sequence_of[column[5]] == NO_ROW
    assert (made.sequence_of[column[made.keep & (column != NO_ROW)]] != NO_ROW).all()


def test_no_pair_left_is_an_error_with_a_remedy(plan_rows: PlanRows, preference_rows: Rows) -> None:
    message = r"no pair is left .*sequence 0: overlong.*raise backbone\.max_length"
    with pytest.raises(DataError, match=message):
        plan_rows(preference_rows(8), max_length=8)


def test_data_of_one_split_are_refused_before_anything_is_tokenised(
    plan_rows: PlanRows, preference_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "TokenFile", None)
    with pytest.raises(DataError, match="no test rows for attribute"):
        plan_rows([row | {"split": "train"} for row in preference_rows(8)])


@pytest.mark.parametrize("window", [1, 700])
def test_windows_lose_nothing(
    window: int, plan_rows: PlanRows, preference_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = plan_rows(preference_rows(40))
    monkeypatch.setattr(planner, "WINDOW_TOKENS", window)
    _, made = plan_rows(preference_rows(40))
    assert sorted(planned(made)) == list(range(made.facts.sequences))
    assert sorted(spelled(made)) == sorted(spelled(whole))
    assert made.facts.separate_tokens == whole.facts.separate_tokens
    assert made.facts.tokens >= whole.facts.tokens


def test_a_window_holds_a_prompt_with_its_responses(
    plan_rows: PlanRows, preference_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted by prompt, not by hash alone: else small windows would share next to nothing."""
    rows = preference_rows(40)
    for row in rows:
        row["prompt"] += " Tell me all of it." * 5
    monkeypatch.setattr(planner, "WINDOW_TOKENS", 1000)
    _, made = plan_rows(rows)
    assert made.facts.tokens < 0.7 * made.facts.separate_tokens


def test_shortened_sequences_are_counted(plan_rows: PlanRows, preference_rows: Rows) -> None:
    rows = preference_rows(16)
    rows[7]["prompt"] += " word" * 100
    _, made = plan_rows(rows, max_length=90, overlong="truncate_prompt")
    assert 3 <= made.facts.shortened <= 6  # prompt and responses, in one view or in two
    assert made.facts.pairs == 16
    assert made.lengths.max() <= 90


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
@hypothesis.settings(max_examples=200, deadline=None)
def test_a_shard_ends_with_the_bin_that_fills_it(sizes: list[int], shard_tokens: int) -> None:
    starts = cut_shards(np.array(sizes, np.int64), shard_tokens).tolist()
    assert starts[0] == 0 and starts[-1] == len(sizes)
    assert starts == sorted(set(starts))
    for start, stop in itertools.pairwise(starts):
        assert sum(sizes[start : stop - 1]) < shard_tokens
        assert sum(sizes[start:stop]) >= shard_tokens or stop == len(sizes)


@pytest.mark.long
def test_no_text_and_no_token_stays_in_memory(
    encoder: LoadEncoder,
    configure: Callable[..., Config],
    write_rows: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who collected the pairs, or their conversations, would hold all of the texts at once.

    With small batches and windows some hundred bytes per sequence are left, for its digest, key
    and numbers. These texts are several times as large.
    """
    monkeypatch.setattr(tokenize, "BATCH", 32)
    monkeypatch.setattr(planner, "WINDOW_TOKENS", 10_000)
    filler = "It is far. " * 150
    rows = [
        {
            "prompt": f"Question {index}?",
            "chosen": f"{filler}{index} yes",
            "rejected": f"{filler}{index} no",
            "split": "test" if index % 8 == 0 else "train",
        }
        for index in range(1000)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    size = sum(len(row["chosen"]) + len(row["rejected"]) for row in rows)
    del rows
    config = configure("llama", file, tmp_path / "store")
    made = encoder("llama", EmbedConfig(device="cpu", bin_tokens=4096), max_length=2048)
    assert made.backbone.sharing  # loaded before the measurement begins
    source = open_pairs(config.data)
    (tmp_path / "plan").mkdir()
    tracemalloc.start()
    try:
        plan = make_plan(made, source, config, "job", tmp_path / "plan")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.facts.pairs == 1000
    assert peak < 0.75 * size
