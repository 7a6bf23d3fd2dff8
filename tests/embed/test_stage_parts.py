"""The embedding stage in several processes: parts of a job, and workers that share one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.lock import StoreLock
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import table_names
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, EmbedConfig
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.stage import JobResult, job_name
from micro_rm.tests.embed.shard_runs import contents

Configure = Callable[..., Config]
Embed = Callable[..., JobResult]
PARTED = EmbedConfig(device="cpu", bin_tokens=200, shard_tokens=200)


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
