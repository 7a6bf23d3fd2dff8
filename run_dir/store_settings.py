"""Resolve automatic settings, such as the dtype, from an existing store.

An automatic dtype depends on the machine. Once a store exists, its dtype is kept, so that another
machine neither refuses it nor starts a second one. The store's manifest tells all that is needed,
without torch.
"""

from __future__ import annotations

from pathlib import Path

from ..configs.resolve import SIMULATOR_FACTS, has_auto, resolve
from ..configs.schema import SIMULATOR_SOURCE, Config


def resolve_from_store(config: Config) -> Config:
    """Replace the automatic settings of a configuration by those of its store.

    Returns:
        The resolved configuration; unchanged if there is no store yet.

    Raises:
        StoreError: The store cannot be read.
    """
    from ..cache.manifest import read_manifest

    if config.data.source == SIMULATOR_SOURCE:
        return resolve(config, SIMULATOR_FACTS)
    store = Path(config.store.dir)
    if not has_auto(config) or not (store / "manifest.json").is_file():
        return config
    return resolve(config, read_manifest(store).identity)


def kept_dtype(asked: Config, followed: Config) -> str:
    """A note that an automatic dtype was taken from the store; empty if it was not.

    ``asked`` is the configuration before ``resolve_from_store``, ``followed`` the one after.
    """
    if asked.backbone.dtype == followed.backbone.dtype:
        return ""
    return f"backbone.dtype auto keeps the store's {followed.backbone.dtype}"
