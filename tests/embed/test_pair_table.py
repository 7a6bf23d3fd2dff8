"""From embedded sequences back to pairs: right rows, counted refusals, a quarantine file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.pairs import NO_ROW, PairTable, read_pairs, table_names
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, sequence_key
from micro_rm.configs.schema import Config, DataConfig
from micro_rm.embed import pair_table as tabulate_module
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.pair_table import write_pair_table
from micro_rm.embed.plan import Plan
from micro_rm.embed.quarantine import write_quarantine
from micro_rm.embed.sequences import choose_pool, conversation_of
from micro_rm.embed.sources import PairSource, open_pairs
from micro_rm.embed.sources.pair import DataError, Message, PreferencePair, Refusal
from micro_rm.embed.stage import JobResult

MakePlan = Callable[..., tuple[Config, Plan]]
Embed = Callable[..., JobResult]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]


@dataclass(frozen=True)
class Embedded:
    """A finished job over forty rows: its store, its pair table, and what it was made from."""

    store: Path
    table: PairTable
    plan: Plan
    source: PairSource
    pairs: list[PreferencePair]
    encoder: Encoder

    def again(self, pairs: list[PreferencePair], store: Path | None = None) -> PairTable:
        """The table that other pairs in the same places would have."""
        source = PairSource(self.source.config, lambda _config, _account: iter(pairs))
        write_pair_table(store or self.store, self.plan, source, "r", {})
        return read_pairs(store or self.store, "rows")


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory,
    embed: Embed,
    plan: MakePlan,
    encoder: Callable[..., Encoder],
    write_rows: WriteRows,
    preference_rows: Rows,
) -> Embedded:
    base = tmp_path_factory.mktemp("embedded")
    file = write_rows(base / "rows.jsonl", preference_rows(40))
    config, made = plan("llama", file, base / "store")
    embed("llama", file, base / "store")
    source = open_pairs(config.data)
    return Embedded(
        base / "store",
        read_pairs(base / "store", "rows"),
        made,
        source,
        list(source),
        encoder("llama"),
    )


def test_every_row_of_the_table_points_to_the_vector_of_its_own_text(embedded: Embedded) -> None:
    """Fetched by content, bit for bit what the store holds under that key."""
    keys = FeatureStore(embedded.store).keys().tobytes()
    checked = 0
    for name, rows in embedded.table.rows.items():
        view, role = name.split("/")
        for pair, row in zip(embedded.pairs, rows, strict=True):
            if row != NO_ROW:
                conversation = conversation_of(pair, view, role, "header", equal_prompts=False)
                ids = embedded.encoder.renderer.token_ids([conversation])[0]
                assert keys[16 * row : 16 * row + 16] == sequence_key(ids)
                checked += 1
    assert checked >= 40 * 3


def test_the_table_tells_which_views_a_row_has(embedded: Embedded) -> None:
    table = embedded.table
    test = np.array([split == "test" for split in table.text["split"]])
    assert np.array_equal(table.pool, choose_pool(embedded.pairs, 200, "attribute"))
    for role in ("prompt", "chosen", "rejected"):
        assert np.array_equal(table.rows[f"plain/{role}"] != NO_ROW, ~test)
        assert np.array_equal(table.rows[f"ctx/{role}"] != NO_ROW, test | table.pool)


def test_the_table_keeps_texts_labels_and_origin(embedded: Embedded, preference_rows: Rows) -> None:
    table = embedded.table
    rows = preference_rows(40)
    assert table.text["chosen"] == [row["chosen"] for row in rows]
    assert table.text["rejected"] == [row["rejected"] for row in rows]
    assert table.text["attribute"] == [row["attribute"] for row in rows]
    assert table.text["context"] == [row["context"] for row in rows]
    assert [json.loads(text) for text in table.text["prompt"]] == [
        [["user", row["prompt"]]] for row in rows
    ]
    assert table.text["pair_id"] == [pair.pair_id for pair in embedded.pairs]
    assert table.text["user"] == [""] * 40
    assert table.source_row.tolist() == list(range(1, 41))
    assert np.isnan(table.margin).all()
    assert table.settings["form"] == "header"
    assert table.settings["backbone"]["max_length"] == 256


def test_the_table_counts_the_tokens_of_both_responses(embedded: Embedded) -> None:
    for role in ("chosen", "rejected"):
        for index, pair in enumerate(embedded.pairs):
            views = ["plain"] * (pair.split == "train") + ["ctx"] * (
                pair.split == "test" or bool(embedded.table.pool[index])
            )
            ids = embedded.encoder.renderer.token_ids(
                [conversation_of(pair, view, role, "header", equal_prompts=False) for view in views]
            )
            assert embedded.table.tokens[role][index] == max(map(len, ids))


def test_the_account_adds_up(embedded: Embedded) -> None:
    account = embedded.table.account
    assert account["rows"] == account["pairs"] == len(embedded.table) == 40
    assert account["refused"] == account["refused_by_tokenizer"] == 0
    assert account["pairs_per_split"] == {"test": 10, "train": 30}
    assert account["prompt_overlap"] == 0
    assert len(FeatureStore(embedded.store)) == embedded.plan.facts.sequences


def test_a_pair_with_one_refused_sequence_is_left_out_and_named(
    embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """One long response takes its pair along, not its neighbours."""
    rows = [*preference_rows(16), {"prompt": "bad"}]
    rows[5]["rejected"] = "word " * 100
    turns = [Message("user", "a\n\u00e9"), Message("assistant", "b"), Message("user", "c")]
    rows[4]["prompt"] = [turn._asdict() for turn in turns]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    outcome = embed("llama", file, tmp_path / "store", max_length=90)
    table = read_pairs(tmp_path / "store", "rows")
    assert table.source_row.tolist() == [n for n in range(1, 17) if n != 6]
    assert json.loads(table.text["prompt"][4]) == [list(turn) for turn in turns]
    assert len(table.pool) == len(table) == 15
    assert all(len(rows) == 15 for rows in table.rows.values())
    lines = (tmp_path / "store" / "quarantine" / "rows.jsonl").read_text().splitlines()
    refusal, bad = map(json.loads, lines)
    assert (refusal["file"], refusal["raw"]) == (file, rows[5])
    assert bad["row"] == 17
    assert refusal["row"] == 6
    assert refusal["field"].endswith("/rejected")
    assert "max_length is 90" in refusal["reason"]
    account = outcome.account
    assert account is not None
    assert (account["rows"], account["pairs"]) == (17, 15)
    assert (account["refused"], account["refused_by_tokenizer"]) == (2, 1)


def test_a_template_that_refuses_system_turns_costs_only_those_rows(
    embed: Embed,
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
    embed(directory, file, tmp_path / "store")
    assert len(read_pairs(tmp_path / "store", "rows")) == 15
    (line,) = (tmp_path / "store" / "quarantine" / "rows.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 4
    assert "System role not supported" in json.loads(line)["reason"]


@pytest.mark.parametrize("block", [7, 20])
def test_blocks_change_nothing_in_the_table(
    block: int, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last block is empty."""
    expected = embedded.again(embedded.pairs)
    monkeypatch.setattr(tabulate_module, "BLOCK", block)
    actual = embedded.again(embedded.pairs)
    assert actual.text == expected.text == embedded.table.text
    for name, rows in expected.rows.items():
        assert np.array_equal(actual.rows[name], rows)


def test_a_table_is_not_made_for_sequences_that_the_store_lacks(
    embedded: Embedded, embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    data = DataConfig(name="other", train=write_rows(tmp_path / "rows.jsonl", preference_rows(16)))
    embed("llama", str(data.train), tmp_path / "store", data=data)
    with pytest.raises(StoreError, match=r"\d+ sequences are missing; run micro-rm embed again"):
        embedded.again(embedded.pairs, tmp_path / "store")
    assert table_names(tmp_path / "store") == ["other"]


@pytest.mark.parametrize("number", [39, 41])
def test_a_table_is_not_made_for_data_of_another_length(number: int, embedded: Embedded) -> None:
    before = (embedded.store / "pairs" / "rows.h5").read_bytes()
    pairs = [*embedded.pairs, *embedded.pairs][:number]
    with pytest.raises(DataError, match="40 pairs when planned, another number now"):
        embedded.again(pairs)
    assert (embedded.store / "pairs" / "rows.h5").read_bytes() == before
    assert [path.name for path in (embedded.store / "pairs").iterdir()] == ["rows.h5"]


def test_optional_fields_of_a_pair_reach_the_table(embedded: Embedded) -> None:
    first = replace(embedded.pairs[0], user="ann", margin=1.5, attribute=None, context=None)
    table = embedded.again([first, *embedded.pairs[1:]])
    assert (table.text["user"][0], table.margin[0]) == ("ann", 1.5)
    assert table.text["attribute"][0] == table.text["context"][0] == ""
    assert np.isnan(table.margin[1:]).all()


def test_ratings_become_a_column_per_attribute_with_gaps(embedded: Embedded) -> None:
    """In order of appearance; a pair without a rating is NaN there; without any there are none."""
    assert embedded.table.ratings == {}
    first = replace(embedded.pairs[0], ratings=(("help", 4.0, 1.0), ("brief", 0.0, math.nan)))
    second = replace(embedded.pairs[1], ratings=(("late", 2.0, 3.0),))
    ratings = embedded.again([first, second, *embedded.pairs[2:]]).ratings
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
