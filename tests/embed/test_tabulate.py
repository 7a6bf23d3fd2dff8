"""From embedded sequences back to pairs: right rows, counted refusals, a quarantine file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.pairs import NO_ROW, PairTable, read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, sequence_key
from micro_rm.configs.schema import Config, ViewsConfig
from micro_rm.embed.extract import Tokenized
from micro_rm.embed.sequences import choose_pool, conversation_of, plan_sequences
from micro_rm.embed.sources.collection import Collection
from micro_rm.embed.sources.pair import DataError, Message, PreferencePair, Refusal
from micro_rm.embed.stage import EmbeddingJob
from micro_rm.embed.tabulate import make_pair_table, select_embeddable, write_quarantine

Plan = Callable[..., tuple[Config, EmbeddingJob]]
Embed = Callable[..., EmbeddingJob]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory,
    embed: Embed,
    write_rows: WriteRows,
    preference_rows: Rows,
) -> tuple[EmbeddingJob, Path, PairTable]:
    """A finished job over forty rows, its store and its pair table."""
    base = tmp_path_factory.mktemp("embedded")
    file = write_rows(base / "rows.jsonl", preference_rows(40))
    job = embed("llama", file, base / "store")
    return job, base / "store", read_pairs(base / "store", "rows")


def test_every_row_of_the_table_points_to_the_vector_of_its_own_text(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    """G-F6: fetched by content, bit for bit what the store holds under that key."""
    job, path, table = embedded
    store = FeatureStore(path)
    keys = store.keys().tobytes()
    checked = 0
    for name, rows in table.rows.items():
        view, role = name.split("/")
        for pair, row in zip(job.kept.pairs, rows, strict=True):
            if row != NO_ROW:
                conversation = conversation_of(pair, view, role, "header", equal_prompts=False)
                ids = job.encoder.renderer.token_ids([conversation])[0]
                assert keys[16 * row : 16 * row + 16] == sequence_key(ids)
                checked += 1
    assert checked >= 40 * 3


def test_the_table_tells_which_views_a_row_has(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    _, _, table = embedded
    test = np.array([split == "test" for split in table.text["split"]])
    for role in ("prompt", "chosen", "rejected"):
        assert np.array_equal(table.rows[f"plain/{role}"] != NO_ROW, ~test)
        assert np.array_equal(table.rows[f"ctx/{role}"] != NO_ROW, test | table.pool)


def test_the_table_keeps_texts_labels_and_origin(
    embedded: tuple[EmbeddingJob, Path, PairTable], preference_rows: Rows
) -> None:
    job, _, table = embedded
    rows = preference_rows(40)
    assert table.text["chosen"] == [row["chosen"] for row in rows]
    assert table.text["rejected"] == [row["rejected"] for row in rows]
    assert table.text["attribute"] == [row["attribute"] for row in rows]
    assert table.text["context"] == [row["context"] for row in rows]
    assert [json.loads(text) for text in table.text["prompt"]] == [
        [["user", row["prompt"]]] for row in rows
    ]
    assert table.text["pair_id"] == [pair.pair_id for pair in job.collection.pairs]
    assert table.text["user"] == [""] * 40
    assert table.source_row.tolist() == list(range(1, 41))
    assert np.isnan(table.margin).all()
    assert table.settings["form"] == "header"
    assert table.settings["backbone"]["max_length"] == 256


def test_the_table_counts_the_tokens_of_both_responses(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    job, _, table = embedded
    for role in ("chosen", "rejected"):
        for place, pair in enumerate(job.kept.pairs):
            views = ["plain"] * (pair.split == "train") + ["ctx"] * (
                pair.split == "test" or bool(table.pool[place])
            )
            ids = job.encoder.renderer.token_ids(
                [conversation_of(pair, view, role, "header", equal_prompts=False) for view in views]
            )
            assert table.tokens[role][place] == max(map(len, ids))


def test_the_account_adds_up(embedded: tuple[EmbeddingJob, Path, PairTable]) -> None:
    """G-F8."""
    job, path, table = embedded
    account = table.account
    assert account["rows"] == account["pairs"] == len(table) == 40
    assert account["refused"] == 0
    assert account["pairs_per_split"] == {"test": 10, "train": 30}
    assert account["prompt_overlap"] == 0
    assert len(FeatureStore(path)) == len(job.tokens.sequences)


def test_a_pair_with_one_refused_sequence_is_left_out_and_named(
    plan: Plan, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """G-F8: one long response takes its pair along, not its neighbours."""
    rows = preference_rows(16)
    rows[5]["rejected"] = "word " * 100
    file = write_rows(tmp_path / "rows.jsonl", rows)
    _, job = plan("llama", file, tmp_path / "store", max_length=90)
    assert [pair.row for pair in job.kept.pairs] == [n for n in range(1, 17) if n != 6]
    (refusal,) = job.kept.refusals
    assert refusal.row == 6
    assert refusal.field.endswith("/rejected")
    assert "max_length is 90" in refusal.reason
    assert len(job.kept.pool) == len(job.kept.pairs) == 15
    chosen = conversation_of(
        job.collection.pairs[5], "plain", "chosen", "header", equal_prompts=False
    )
    needless = sequence_key(job.encoder.renderer.token_ids([chosen])[0])
    assert needless not in job.kept.sequences


def test_a_template_that_refuses_system_turns_costs_only_those_rows(
    plan: Plan,
    save_backbone: Callable[..., Path],
    write_rows: WriteRows,
    preference_rows: Rows,
    tmp_path: Path,
) -> None:
    rows = preference_rows(16)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    rows[3]["prompt"] = turns
    directory = save_backbone(tmp_path / "model", "llama", template="no_system")
    file = write_rows(tmp_path / "rows.jsonl", rows)
    _, job = plan(directory, file, tmp_path / "store")
    assert len(job.kept.pairs) == 15
    (refusal,) = job.kept.refusals
    assert refusal.row == 4
    assert "System role not supported" in refusal.reason


def test_no_pair_left_is_an_error_with_a_remedy(
    plan: Plan, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", preference_rows(8))
    with pytest.raises(DataError, match=r"no pair is left .*row \d+.*raise backbone\.max_length"):
        plan("llama", file, tmp_path / "store", max_length=8)
    assert not (tmp_path / "store").exists()


def test_the_selection_keeps_index_and_pool_in_step(make_pair: Callable[..., Any]) -> None:
    pairs: list[PreferencePair] = [
        make_pair(f"p{place}", attribute="brief", row=place + 1) for place in range(4)
    ]
    pool = np.array([True, False, True, False])
    plan = plan_sequences(pairs, pool, ViewsConfig())
    ids = [np.array([place + 1, 2], np.int32) for place in range(len(plan.conversations))]
    bad = int(plan.index["plain/chosen"][1])
    tokens = Tokenized(
        sequences={sequence_key(item): item for place, item in enumerate(ids) if place != bad},
        keys=[None if place == bad else sequence_key(item) for place, item in enumerate(ids)],
        lengths=[2] * len(ids),
        refusals={bad: "overlong: 900 tokens"},
    )
    kept = select_embeddable(Collection(pairs=pairs, rows=4), pool, plan, tokens)
    assert [pair.row for pair in kept.pairs] == [1, 3, 4]
    assert kept.pool.tolist() == [True, True, False]
    assert kept.refusals == [Refusal(2, "plain/chosen", "overlong: 900 tokens")]
    for name, places in kept.index.items():
        assert places.tolist() == plan.index[name][[0, 2, 3]].tolist()
    assert len(kept.sequences) == 9


def test_a_table_is_not_made_for_sequences_that_the_store_lacks(
    embedded: tuple[EmbeddingJob, Path, PairTable],
    embed: Embed,
    write_rows: WriteRows,
    preference_rows: Rows,
    tmp_path: Path,
) -> None:
    job, _, _ = embedded
    embed("llama", write_rows(tmp_path / "rows.jsonl", preference_rows(16)), tmp_path / "store")
    with pytest.raises(StoreError, match=r"\d+ sequences are missing"):
        make_pair_table(tmp_path / "store", "rows", "r", {}, job.collection, job.kept, job.tokens)


def test_optional_fields_of_a_pair_reach_the_table(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    job, path, _ = embedded
    first = replace(job.kept.pairs[0], user="ann", margin=1.5, attribute=None, context=None)
    kept = replace(job.kept, pairs=[first, *job.kept.pairs[1:]])
    table = make_pair_table(path, "rows", "r", {}, job.collection, kept, job.tokens)
    assert (table.text["user"][0], table.margin[0]) == ("ann", 1.5)
    assert table.text["attribute"][0] == table.text["context"][0] == ""
    assert np.isnan(table.margin[1:]).all()


def test_ratings_become_a_column_per_attribute_with_gaps(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    """In order of appearance; a pair without a rating is NaN there; without any there are none."""
    job, path, table = embedded
    assert table.ratings == {}
    first = replace(job.kept.pairs[0], ratings=(("help", 4.0, 1.0), ("brief", 0.0, math.nan)))
    second = replace(job.kept.pairs[1], ratings=(("late", 2.0, 3.0),))
    kept = replace(job.kept, pairs=[first, second, *job.kept.pairs[2:]])
    ratings = make_pair_table(path, "rows", "r", {}, job.collection, kept, job.tokens).ratings
    assert list(ratings) == ["help", "brief", "late"]
    nothing = [math.nan, math.nan]
    np.testing.assert_array_equal(ratings["help"][:2], [[4, 1], nothing])
    np.testing.assert_array_equal(ratings["brief"][:2], [[0, math.nan], nothing])
    np.testing.assert_array_equal(ratings["late"][:2], [nothing, [2, 3]])
    for rating_Nx2 in ratings.values():
        assert rating_Nx2.shape == (40, 2)
        assert np.isnan(rating_Nx2[2:]).all()


def test_a_ratings_file_reaches_the_table(
    embed: Embed, write_rows: WriteRows, tmp_path: Path
) -> None:
    """From rows of prompt, response and whole numbers to chosen and rejected of every pair."""
    rated = [
        {
            "prompt": f"p{n}",
            "response": f"r{n} {side}",
            "help": side,
            "brief": 4 - n % 3,
            "split": s,
        }
        for n, s in ((0, "train"), (1, "train"), (2, "test"))
        for side in (1, 3)
    ]
    rated[0]["brief"] = None
    embed("llama", write_rows(tmp_path / "rows.jsonl", rated), tmp_path / "store")
    table = read_pairs(tmp_path / "store", "rows")
    assert table.text["attribute"] == ["help"] * 3
    np.testing.assert_array_equal(table.ratings["help"], [[3, 1]] * 3)
    np.testing.assert_array_equal(table.ratings["brief"], [[4, math.nan], [3, 3], [2, 2]])


def test_the_quarantine_lists_every_refusal(tmp_path: Path) -> None:
    refusals = [
        Refusal(3, "chosen", "expected text, found int", "a.jsonl"),
        Refusal(9, "ctx/prompt", "overlong: \u201c900\u201d tokens \ud800"),
    ]
    path = write_quarantine(tmp_path, "rows", refusals)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["row"], line["field"], line["reason"], line["file"]) for line in lines] == [
        (3, "chosen", "expected text, found int", "a.jsonl"),
        (9, "ctx/prompt", "overlong: \u201c900\u201d tokens \ud800", ""),
    ]
    assert path == tmp_path / "quarantine" / "rows.jsonl"


def test_an_empty_quarantine_replaces_an_old_one(tmp_path: Path) -> None:
    write_quarantine(tmp_path, "rows", [Refusal(1, "", "x")])
    assert write_quarantine(tmp_path, "rows", []).read_text() == ""
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == ["rows.jsonl"]


def test_messages_of_several_turns_survive_the_table(
    embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    rows = preference_rows(8)
    turns = [Message("user", "a\n\u00e9"), Message("assistant", "b"), Message("user", "c")]
    rows[4]["prompt"] = [turn._asdict() for turn in turns]
    embed("llama", write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "store")
    table = read_pairs(tmp_path / "store", "rows")
    assert json.loads(table.text["prompt"][4]) == [list(turn) for turn in turns]


def test_choosing_the_pool_uses_the_configured_size(
    embedded: tuple[EmbeddingJob, Path, PairTable],
) -> None:
    job, _, table = embedded
    assert np.array_equal(table.pool, choose_pool(job.collection.pairs, 200, "attribute"))
