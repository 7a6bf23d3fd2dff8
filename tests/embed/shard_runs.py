"""Embedding a plan into a store, shard by shard, and reading back what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from micro_rm.cache.reader import FeatureStore, KeyIndex
from micro_rm.cache.writer import open_manifest, recover_store
from micro_rm.configs.schema import EmbedConfig
from micro_rm.embed import shard_loop
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.plan import Plan

SMALL = EmbedConfig(device="cpu", bin_tokens=200, shard_tokens=400)


def run(
    made: Encoder,
    plan: Plan,
    store: Path,
    part: tuple[int, int] = (0, 1),
    progress: shard_loop.ProgressCallback = lambda *_: None,
    notify: shard_loop.NotifyCallback = lambda _: None,
) -> np.ndarray:
    """Embed into a store; its vectors in the order of the plan's sequences, NaN where missing."""
    open_manifest(store, made.identity, made.backbone.width)
    shard_loop.embed_shards(made.backbone, made.identity, plan, store, part, progress, notify)
    return stored(plan, store)


def stored(plan: Plan, store: Path) -> np.ndarray:
    recover_store(store)
    reader = FeatureStore(store)
    rows = KeyIndex(reader.keys()).rows(plan.keys)
    vectors = np.full((len(rows), reader.width), np.nan, np.float32)
    vectors[rows >= 0] = reader.vectors(rows[rows >= 0])
    return vectors


def contents(store: Path) -> dict[str, bytes]:
    """Shards, pair tables and manifest."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.suffix in (".h5", ".json", ".jsonl")
    }
