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

from micro_rm.cache.lock import StoreLock
from micro_rm.cache.manifest import read_manifest, write_manifest
from micro_rm.cache.native_head import read_native_head, write_native_head
from micro_rm.cache.pairs import read_pairs, read_request, table_names
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, DataConfig, EmbedConfig, ViewsConfig
from micro_rm.embed import stage
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import DataError
from micro_rm.embed.stage import JobPreview, JobResult, job_name, preview_job, run_job

MakePlan = Callable[..., tuple[Config, Plan]]
Configure = Callable[..., Config]
Embed = Callable[..., JobResult]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]
PARTED = EmbedConfig(device="cpu", bin_tokens=200, shard_tokens=200)


@pytest.fixture
def file(tmp_path: Path, write_rows: WriteRows, preference_rows: Rows) -> str:
    return write_rows(tmp_path / "rows.jsonl", [*preference_rows(16), {"prompt": "bad"}])


def preview(config: Config) -> tuple[JobPreview, float]:
    result, seconds, _ = preview_job(config, open_pairs(config.data))
    return result, seconds


def contents(store: Path) -> dict[str, bytes]:
    """Shards, pair tables and manifest."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.suffix in (".h5", ".json", ".jsonl")
    }


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


@pytest.mark.parametrize("shared", [False, True])
def test_another_job_cannot_write_at_the_same_time(
    shared: bool, embed: Embed, file: str, tmp_path: Path
) -> None:
    """The lock spans plan and writing: a plan made beside a writer would store things twice."""
    store = tmp_path / "store"
    if shared:
        embed("llama", file, store, embed=replace(PARTED, shards="0/2"))
    with StoreLock(store) as lock:
        lock.announce("another job")
        assert lock.acquire(shared=shared)
        with pytest.raises(StoreError, match="another process is writing here"):
            embed("llama", file, store)
    assert table_names(store) == []


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


# Several processes


def test_a_part_that_is_not_the_last_leaves_the_rest_and_no_table(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    outcome = embed("llama", file, store, embed=replace(PARTED, shards="1/3"))
    shards = outcome.preview.shards
    assert shards > 3
    assert outcome.account is None
    assert outcome.pending_shards == shards - len(range(1, shards, 3))
    assert table_names(store) == []
    assert read_manifest(store).shards == ()
    assert plan_path(store).is_dir()


def test_parts_one_after_the_other_give_the_store_of_one_process(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    whole = embed("llama", file, tmp_path / "whole", embed=PARTED)
    outcomes = [
        embed("llama", file, tmp_path / "parts", embed=replace(PARTED, shards=f"{part}/3"))
        for part in (2, 0, 1)
    ]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert [outcome.account is None for outcome in outcomes] == [True, True, False]
    assert outcomes[-1].account == whole.account
    assert sum(outcome.work.tokens for outcome in outcomes) == whole.work.tokens


def test_a_job_cut_in_another_way_keeps_the_shards_that_are_sealed(
    embed: Embed, file: str, tmp_path: Path
) -> None:
    """Other bins are another job: its plan replaces the abandoned one, nothing is done twice."""
    store = tmp_path / "store"
    first = embed("llama", file, store, embed=replace(PARTED, shards="0/2"))
    assert first.account is None
    sealed = {path.name: path.read_bytes() for path in (store / "shards").iterdir()}
    last = embed("llama", file, store, embed=replace(PARTED, bin_tokens=100))
    assert last.account is not None
    assert last.preview.stored_sequences == sum(
        shard.rows for shard in read_manifest(store).shards if shard.name in sealed
    )
    assert len(FeatureStore(store)) == last.preview.sequences
    for name, content in sealed.items():
        assert (store / "shards" / name).read_bytes() == content
    assert verify_store(store).problems == []


def test_workers_of_one_job_cut_it_in_the_same_way(
    configure: Configure, encoder: Callable[..., Encoder], file: str, tmp_path: Path
) -> None:
    def name(request: str = "request", **changes: Any) -> str:
        settings = replace(PARTED, **changes)
        config = configure("llama", file, tmp_path / "store", embed=settings)
        return job_name(request, encoder("llama", settings), config)

    same = [{"shards": "1/2"}, {"actors": 3, "engine": "ray"}, {"device": "auto"}]
    other = [{"bin_tokens": 100}, {"shard_tokens": 100}, {"share_prefixes": False}]
    assert {name(**changes) for changes in same} == {name()}
    assert len({name(), name("another"), *(name(**changes) for changes in other)}) == 5


def test_workers_on_different_devices_do_not_mix_their_bins(
    configure: Configure, encoder: Callable[..., Encoder], file: str, tmp_path: Path
) -> None:
    """Without ``bin_tokens`` each device has a size of its own, and that one is in the name."""
    settings = replace(PARTED, bin_tokens=None)
    config = configure("llama", file, tmp_path / "store", embed=settings)
    made = encoder("llama", settings)
    before = job_name("request", made, config)
    usual = made.backbone.bin_tokens
    made.backbone.bin_tokens = 32768
    try:
        assert job_name("request", made, config) != before
    finally:
        made.backbone.bin_tokens = usual
