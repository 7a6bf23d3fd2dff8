"""The embedding stage as a whole: what it plans, what it writes, what it may skip."""

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

from micro_rm.cache.native_head import read_native_head, write_native_head
from micro_rm.cache.pairs import read_pairs, read_request
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import StoreLock, recover_store
from micro_rm.configs.schema import Config, ViewsConfig
from micro_rm.embed.sources import load_pairs
from micro_rm.embed.stage import EmbeddingJob, estimate_seconds, plan_job, run_job

Plan = Callable[..., tuple[Config, EmbeddingJob]]
Embed = Callable[..., EmbeddingJob]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path, write_rows: WriteRows, preference_rows: Rows) -> str:
    return write_rows(tmp_path / "rows.jsonl", [*preference_rows(16), {"prompt": "bad"}])


def test_a_plan_writes_nothing_and_tells_the_size_of_the_work(
    plan: Plan, file: str, tmp_path: Path
) -> None:
    _, job = plan("llama", file, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert job.new_sequences == job.work.sequences == len(job.kept.sequences)
    assert job.new_bytes == job.new_sequences * 32 * 4
    assert estimate_seconds(job) > 0
    assert not (tmp_path / "store").exists()


def test_the_bytes_of_a_plan_are_those_of_the_stored_type(
    plan: Plan, file: str, tmp_path: Path
) -> None:
    _, job = plan("llama", file, tmp_path / "store", dtype="bfloat16")
    assert job.new_bytes == job.new_sequences * 32 * 2


def test_a_run_leaves_store_table_and_quarantine(embed: Embed, file: str, tmp_path: Path) -> None:
    job = embed("llama", file, tmp_path / "store")
    store = tmp_path / "store"
    assert verify_store(store).problems == []
    assert len(FeatureStore(store)) == job.work.sequences
    assert len(read_pairs(store, "rows")) == 16
    assert read_request(store, "rows") == "request"
    (line,) = (store / "quarantine" / "rows.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], json.loads(line)["field"]) == (17, "chosen")


def test_a_second_plan_finds_everything_stored(
    embed: Embed, plan: Plan, file: str, tmp_path: Path
) -> None:
    embed("llama", file, tmp_path / "store")
    _, job = plan("llama", file, tmp_path / "store")
    assert (job.new_sequences, job.new_bytes, job.work.batches) == (0, 0, [])
    assert estimate_seconds(job) == 0


def test_other_views_add_only_what_they_need(
    plan: Plan, embed: Embed, file: str, tmp_path: Path
) -> None:
    embed("llama", file, tmp_path / "store")
    before = len(FeatureStore(tmp_path / "store"))
    config, _ = plan("llama", file, tmp_path / "store")
    views = ViewsConfig(adapt_router="context")
    with StoreLock(tmp_path / "store") as lock:
        config = replace(config, views=views)
        job = plan_job(config, load_pairs(config.data))
        assert job.new_sequences == 2  # the two wishes
        run_job(job, config, "request", lambda *_: None, lock)
    assert len(FeatureStore(tmp_path / "store")) == before + 2
    assert "context/prompt" in read_pairs(tmp_path / "store", "rows").rows


def test_two_data_sets_share_one_store(
    embed: Embed, write_rows: WriteRows, preference_rows: Rows, tmp_path: Path
) -> None:
    """What several data sets have in common is stored once; each has its own table."""
    from micro_rm.configs.schema import DataConfig

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
    embed: Embed, file: str, backbone_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """G-F1: a stored vector times the stored head is the backbone's own reward."""
    job = embed("llama-reward", file, tmp_path / "store")
    head_D = read_native_head(tmp_path / "store")
    assert head_D is not None and head_D.shape == (32,)
    assert verify_store(tmp_path / "store").problems == []
    model = AutoModelForSequenceClassification.from_pretrained(
        backbone_path("llama-reward"), dtype=torch.float32
    )
    keys, store = list(job.kept.sequences), FeatureStore(tmp_path / "store")
    place_of = {bytes(key): row for row, key in enumerate(store.keys())}
    for key in keys[:5]:
        ids = torch.from_numpy(job.kept.sequences[key].astype(np.int64))[None]
        with torch.inference_mode():
            reward = float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
        vector_D = store.vectors(np.array([place_of[bytes(key)]]))[0]
        assert float(vector_D @ head_D) == pytest.approx(reward, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"), [("llama", {}), ("bert", {}), ("llama-reward", {"pooling": "mean"})]
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
    plan: Plan, embed: Embed, file: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    embed("llama", file, store)
    path = store / "manifest.json"
    raw = json.loads(path.read_text())
    raw["shards"].pop()
    path.write_text(json.dumps(raw))
    with StoreLock(store):
        recover_store(store)
        _, job = plan("llama", file, store)
    assert job.new_sequences == 0


def test_two_runs_cannot_plan_and_write_at_the_same_time(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    """The lock spans plan and writing: a plan made beside a writer would store things twice."""
    with StoreLock(tmp_path / "store"), pytest.raises(StoreError, match="another process"):
        embed("llama", file, tmp_path / "store")
