"""The embedding stage in one process: what it plans, what it writes, what it may skip."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from micro_rm.cache.manifest import read_manifest, write_manifest
from micro_rm.cache.native_head import read_native_head, write_native_head
from micro_rm.cache.pairs import read_pairs, read_request, table_names
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, DataConfig, ViewsConfig
from micro_rm.embed import stage
from micro_rm.embed.plan import Plan
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import DataError
from micro_rm.embed.stage import JobPreview, JobResult, preview_job, run_job
from micro_rm.tests.embed.shard_runs import contents

MakePlan = Callable[..., tuple[Config, Plan]]
Configure = Callable[..., Config]
Embed = Callable[..., JobResult]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]


def preview(config: Config) -> tuple[JobPreview, float]:
    result, seconds, _ = preview_job(config, open_pairs(config.data))
    return result, seconds


# JobPreview


def test_a_preview_writes_nothing_and_tells_the_size_of_the_work(
    configure: Configure, plan: MakePlan, file: str, tmp_path: Path
) -> None:
    result, seconds = preview(configure("llama", file, tmp_path / "store"))
    _, made = plan("llama", file, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert result == JobPreview(
        pairs=16,
        sequences=made.facts.sequences,
        stored_sequences=0,
        new_sequences=made.facts.sequences,
        separate_tokens=made.facts.separate_tokens,
        tokens=made.facts.tokens,
        bins=made.facts.bins,
        fill=round(made.facts.fill, 4),
        shards=made.facts.shards,
        bytes=made.facts.sequences * 32 * 4,
        note="prefixes are shared",
    )
    assert seconds > 0
    half, _ = preview(configure("llama", file, tmp_path / "store", dtype="bfloat16"))
    assert half.bytes == half.new_sequences * 32 * 2


def test_a_preview_refuses_what_a_run_would_refuse(
    embed: Embed, configure: Configure, file: str, tmp_path: Path
) -> None:
    embed("llama", file, tmp_path / "store")
    with pytest.raises(StoreError, match="max_length: the store has 256, this run has 100"):
        preview(configure("llama", file, tmp_path / "store", max_length=100))


# One process


def test_a_run_leaves_store_table_and_quarantine_and_says_what_it_did(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    outcome, store = embed("llama", file, tmp_path / "store"), tmp_path / "store"
    assert verify_store(store).problems == []
    assert len(FeatureStore(store)) == outcome.preview.sequences
    table = read_pairs(store, "rows")
    assert len(table) == 16 and outcome.account == table.account
    assert read_request(store, "rows") == "request"
    (line,) = (store / "quarantine" / "rows.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], json.loads(line)["field"]) == (17, "chosen")
    assert not list(store.glob("plan*")) and not list(store.rglob("*.tmp"))
    assert outcome.work.tokens == outcome.preview.tokens > 0
    assert outcome.pending_shards == 0
    speed = outcome.work.tokens / outcome.seconds
    assert outcome.throughput.tokens_per_second == pytest.approx(speed)


def test_the_plan_is_told_before_the_first_pass(
    configure: Configure, file: str, tmp_path: Path
) -> None:
    told: list[str] = []
    config = configure("llama", file, tmp_path / "store")
    run_job(
        config,
        open_pairs(config.data),
        "request",
        on_plan=lambda preview, encoder: told.append(f"{preview.pairs} {encoder.backbone.dtype}"),
        progress=lambda done, total, _: told.append("progress"),
        notify=told.append,
    )
    assert told[0] == "16 float32"
    assert set(told[1:]) == {"progress"}


def test_a_second_preview_and_run_find_everything_stored_and_write_the_same_table(
    embed: Embed, configure: Configure, file: str, tmp_path: Path
) -> None:
    embed("llama", file, tmp_path / "store")
    before = contents(tmp_path / "store")
    result, seconds = preview(configure("llama", file, tmp_path / "store"))
    assert (result.new_sequences, result.bytes, result.bins, result.shards) == (0, 0, 0, 0)
    assert result.stored_sequences == result.sequences > 0 == seconds
    assert contents(tmp_path / "store") == before
    outcome = embed("llama", file, tmp_path / "store")
    assert (outcome.work.tokens, outcome.preview.new_sequences) == (0, 0)
    assert contents(tmp_path / "store") == before


def test_other_views_add_only_what_they_need(
    configure: Configure, embed: Embed, file: str, tmp_path: Path
) -> None:
    embed("llama", file, tmp_path / "store")
    before = len(FeatureStore(tmp_path / "store"))
    config = configure("llama", file, tmp_path / "store")
    config = replace(config, views=ViewsConfig(adapt_router="context"))
    nothing: Any = lambda *_: None  # noqa: E731
    source = open_pairs(config.data)
    outcome = run_job(config, source, "r", on_plan=nothing, progress=nothing, notify=nothing)
    assert outcome.preview.new_sequences == 2  # the two contexts
    assert len(FeatureStore(tmp_path / "store")) == before + 2
    assert "context/prompt" in read_pairs(tmp_path / "store", "rows").rows


def test_two_data_sets_share_one_store(
    embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """What several data sets have in common is stored once; each has its own table."""
    store = tmp_path / "store"
    sizes = []
    for name, rows in (("a", preference_rows(16)), ("b", preference_rows(24))):
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        embed("llama", path, store, data=DataConfig(name=name, train=path))
        sizes.append(len(FeatureStore(store)))
    alone = tmp_path / "alone"
    embed("llama", str(tmp_path / "b.jsonl"), alone)
    assert sizes[0] < sizes[1] == len(FeatureStore(alone))
    assert [len(read_pairs(store, name)) for name in "ab"] == [16, 24]
    assert verify_store(store).problems == []


def test_the_reward_head_of_a_causal_backbone_is_kept_beside_its_vectors(
    embed: Embed, plan: MakePlan, file: str, backbone_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """A stored vector times the stored head is the backbone's own reward."""
    embed("llama-reward", file, tmp_path / "store")
    head_D = read_native_head(tmp_path / "store")
    assert head_D is not None and head_D.shape == (32,)
    assert verify_store(tmp_path / "store").problems == []
    model = AutoModelForSequenceClassification.from_pretrained(
        backbone_path("llama-reward"), dtype=torch.float32
    )
    _, made = plan("llama-reward", file, tmp_path / "elsewhere")
    store = FeatureStore(tmp_path / "store")
    place_of = {key: row for row, key in enumerate(store.keys().tolist())}
    for number in range(5):
        ids = torch.from_numpy(made.sequence(number).astype(np.int64))[None]
        with torch.inference_mode():
            reward = float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
        vector_D = store.vectors(np.array([place_of[made.keys[number]]]))[0]
        assert float(vector_D @ head_D) == pytest.approx(reward, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"), [("llama", {}), ("llama-reward", {"pooling": "mean"})]
)
def test_no_head_is_written_where_it_would_not_give_the_reward(
    name: str, changes: dict[str, Any], embed: Embed, file: str, tmp_path: Path
) -> None:
    """No head at all, or vectors of another read-out than the one that it was trained on."""
    embed(name, file, tmp_path / "store", **changes)
    assert read_native_head(tmp_path / "store") is None


def test_embedding_again_mends_a_damaged_head(embed: Embed, file: str, tmp_path: Path) -> None:
    """As ``verify`` says."""
    embed("llama-reward", file, tmp_path / "store")
    honest = read_native_head(tmp_path / "store")
    write_native_head(tmp_path / "store", np.ones(5))
    assert len(verify_store(tmp_path / "store").problems) == 1
    embed("llama-reward", file, tmp_path / "store")
    np.testing.assert_array_equal(read_native_head(tmp_path / "store"), honest)


def test_a_shard_that_a_killed_run_left_unlisted_is_not_embedded_again(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    embed("llama", file, store)
    before = read_manifest(store)
    write_manifest(store, replace(before, shards=before.shards[:-1], next_shard=0))
    outcome = embed("llama", file, store)
    assert outcome.work.tokens == 0
    assert read_manifest(store) == before


def test_data_that_change_between_plan_and_table_are_refused_and_the_job_can_be_run_again(
    embed: Embed,
    write_rows: WriteRows,
    preference_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "rows.jsonl"
    file = write_rows(path, preference_rows(16))
    honest = stage.embed_shards

    def meddle(*arguments: Any) -> Any:
        done = honest(*arguments)
        write_rows(path, preference_rows(24))
        return done

    monkeypatch.setattr(stage, "embed_shards", meddle)
    with pytest.raises(DataError, match="the data changed while they were embedded: 16 pairs"):
        embed("llama", file, tmp_path / "store")
    assert table_names(tmp_path / "store") == []
    monkeypatch.undo()
    write_rows(path, preference_rows(16))
    assert embed("llama", file, tmp_path / "store").work.tokens == 0
    assert len(read_pairs(tmp_path / "store", "rows")) == 16
