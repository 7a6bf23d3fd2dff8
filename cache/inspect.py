"""Describe a store from its manifest and pair tables, without reading a vector."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .manifest import read_manifest
from .pairs import NO_ROW, read_pairs, table_names
from .schema import plan_path


def describe_store(store: Path) -> dict[str, Any]:
    """Summarise a store as JSON-ready values.

    Returns:
        ``store``, ``identity``, ``width``; the counts ``vectors``, ``bytes`` and ``shards``;
        ``unfinished_job`` and ``shards_of_unfinished_job``; and ``tables``, which maps each pair
        table to its number of pairs, pairs per split and attribute, embedded pairs per view and
        role, and account of what was left out.

    Raises:
        StoreError: There is no store, or its manifest or a pair table cannot be read.
    """
    manifest = read_manifest(store)
    sealed = len(list((store / "shards").glob("*.h5")))
    tables = {}
    for name in table_names(store):
        table = read_pairs(store, name)
        tables[name] = {
            "pairs": len(table),
            "splits": dict(Counter(table.text["split"])),
            "attributes": dict(Counter(name or "(none)" for name in table.text["attribute"])),
            "views": {key: int((rows != NO_ROW).sum()) for key, rows in sorted(table.rows.items())},
            "account": dict(table.account),
        }
    return {
        "store": str(store),
        "identity": asdict(manifest.identity),
        "width": manifest.width,
        "vectors": manifest.rows,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "shards": len(manifest.shards),
        "unfinished_job": plan_path(store).exists(),
        "shards_of_unfinished_job": sealed - len(manifest.shards),
        "tables": tables,
    }
