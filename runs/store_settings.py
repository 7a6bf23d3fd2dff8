"""What a configuration leaves open, as a store answers it: without torch, and the same everywhere.

A store keeps the type that it was made in, so that no store is split or refused because another
machine would choose another one.
"""

from __future__ import annotations

from pathlib import Path

from ..configs.resolve import SIMULATOR_FACTS, has_auto, resolve
from ..configs.schema import SIMULATOR_SOURCE, Config


def resolve_from_store(config: Config) -> Config:
    """The configuration with what it leaves open as its store has it; as it is without a store.

    Raises ``StoreError`` for a store that cannot be read.
    """
    from ..cache.manifest import read_manifest

    if config.data.source == SIMULATOR_SOURCE:
        return resolve(config, SIMULATOR_FACTS)
    store = Path(config.store.dir)
    if not has_auto(config) or not (store / "manifest.json").is_file():
        return config
    return resolve(config, read_manifest(store).identity)


def kept_dtype(asked: Config, followed: Config) -> str:
    """That an automatic type is the store's, in words; empty where it is not."""
    if asked.backbone.dtype == followed.backbone.dtype:
        return ""
    return f"backbone.dtype auto keeps the store's {followed.backbone.dtype}"
