"""Embed a data set once: text in, a store out."""

from __future__ import annotations

import logging
from pathlib import Path

from ..common.imports import permanent_imports
from ..configs.schema import DEMO_ENCODER
from ..run_dir.store_settings import resolve_from_store
from .progress import embedding_tokens, working_on
from .settings import Settings, make_config
from .store import Store

LOG = logging.getLogger("micro_rm")


def embed(
    data: str | Path,
    *,
    backbone: str = DEMO_ENCODER,
    store: str | Path = "cache/store/default",
    name: str | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Store:
    """Embed every distinct token sequence of a data set; what the store already has is reused.

    Args:
        data: A file of preference pairs (.jsonl or .parquet, .gz allowed), or the name of a
            published data set, such as helpsteer2.
        backbone: Hub id or local directory of a frozen model.
        store: Directory of the store; created if it is missing.
        name: Name of the pair table; by default the file name without its ending, or the name of
            the published data set.
        settings: More keys of the configuration, such as ``{"backbone.pooling": "last"}``.
        progress: Show progress on a terminal or in a notebook.

    Sequences that are left out, and bins that were halved for want of memory, are warnings of the
    logger ``micro_rm``.

    Returns:
        The store, whose ``table(name)`` holds the pairs.

    Raises:
        ConfigError: A setting is wrong, or a file or model is not at hand.
        DataError: The data give no pair.
        StoreError: The store was made with another model or other settings.
    """
    from ..embed.sources import SOURCES, open_pairs

    path = Path(data)
    published = str(data) in SOURCES and not path.exists()
    stem = str(data) if published else path.name.split(".")[0]
    source = {"source": str(data)} if published else {"train": str(data)}
    config = make_config(
        settings,
        data=source | {"name": name or stem},
        backbone={"name": backbone},
        store={"dir": str(store)},
    )
    config = resolve_from_store(config)
    with working_on("loading torch and the backbone", progress), permanent_imports():
        from ..embed.stage import run_job

    with embedding_tokens(progress) as advance:
        run_job(
            config,
            open_pairs(config.data),
            on_plan=lambda _preview, _encoder: None,
            progress=advance,
            notify=LOG.warning,
        )
    return Store(config.store.dir)
