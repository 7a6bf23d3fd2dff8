"""Registered data sources: exact name -> loader. A new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from ...configs.schema import SIMULATOR_SOURCE, ConfigError, DataConfig
from . import jsonl, synthetic
from .collection import Collection
from .contexts import assign_contexts, read_contexts
from .pair import DataError

SOURCES: dict[str, Callable[[DataConfig], Collection]] = {
    "jsonl": jsonl.load,
    "synthetic": synthetic.load,
}


def load_pairs(config: DataConfig) -> Collection:
    """Read the configured source and give its pairs their contexts.

    Raises ``DataError`` if not a single pair is left, with the first refusals as the reason.
    """
    if config.source == SIMULATOR_SOURCE:
        raise ConfigError(
            "data.source: the simulator draws vectors, there is no text to check or embed; use "
            "micro-rm run, train, study"
        )
    if config.source not in SOURCES:
        raise ConfigError(
            f"data.source: expected one of {', '.join(sorted(SOURCES))}, found {config.source!r}"
        )
    collection = SOURCES[config.source](config)
    if config.contexts is not None:
        wishes = read_contexts(config.contexts)
        attributes = {pair.attribute for pair in collection.pairs}
        if collection.pairs and not attributes & wishes.keys():
            raise DataError(
                f"{config.contexts}: it has wishes for {', '.join(wishes)}, the data have the "
                f"attributes {', '.join(sorted(map(str, attributes)))}; make the names agree"
            )
        collection.pairs = assign_contexts(collection.pairs, wishes)
    if not collection.pairs:
        first = "; ".join(
            f"row {item.row}: {item.field} {item.reason}" for item in collection.refusals[:3]
        )
        raise DataError(
            f"{config.train or config.source}: no usable pair in {collection.rows} rows"
            + (f" ({first})" if first else "")
            + (f"; {collection.ties.total()} ratings are ties" if collection.ties else "")
            + ("" if collection.rows else "; the file is empty")
            + "; see the accepted shapes in the README, section 'Your own data'"
        )
    return collection
