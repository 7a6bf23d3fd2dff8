"""Small stores with known content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from micro_rm.cache.manifest import checksum_of, read_manifest
from micro_rm.cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable, read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, LOGICAL, Identity, Manifest
from micro_rm.cache.writer import (
    adopt_shards,
    next_shard_number,
    open_manifest,
    shard_path,
    write_shard,
)

WIDTH = 6


def make_identity(dtype: str = "float32", **changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "backbone": "org/model",
        "revision": "main",
        "weights": "w" * 64,
        "tokenizer": "t" * 64,
        "template": "plain",
        "probe": "p" * 64,
        "bos": "auto",
        "pooling": "last",
        "layer": "last_hidden_state",
        "dtype": dtype,
        "max_length": 4096,
    }
    return Identity(**(fields | changes))


def edit_manifest(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the JSON of a manifest and renew its checksum."""
    path = store / "manifest.json"
    raw = json.loads(path.read_text("utf-8"))
    edit(raw)
    path.write_text(json.dumps(raw | {"checksum": checksum_of(raw)}), "utf-8")


def make_keys(number: int, start: int = 0) -> list[bytes]:
    """Distinct keys, with many zero bytes at either end."""
    keys = []
    for index in range(start, start + number):
        digits = (index + 1).to_bytes(2, "big")
        keys.append(digits + bytes(14) if index % 2 else bytes(14) + digits)
    return keys


def make_vectors(number: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Random finite bit patterns."""
    logical = LOGICAL[dtype]
    random = np.random.default_rng(seed)
    bits = np.dtype(f"u{logical.itemsize}")
    drawn = random.integers(0, np.iinfo(bits).max, (number, WIDTH), bits).view(logical)
    return np.where(np.isfinite(drawn.astype(np.float32)), drawn, np.zeros(1, logical))


def open_store(path: Path, identity: Identity | None = None, width: int = WIDTH) -> Manifest:
    """The manifest, a new one if there is none."""
    return open_manifest(path, identity or make_identity(), width)


def seal_shard(
    path: Path,
    keys: Sequence[bytes],
    vectors: np.ndarray,
    identity: Identity | None = None,
    job: str = "job",
    number: int | None = None,
) -> Path:
    """Write a shard, the next one unless numbered, which no manifest lists yet."""
    made = shard_path(path, next_shard_number(path) if number is None else number)
    write_shard(made, identity or make_identity(), job, np.array(keys, KEY_DTYPE), vectors)
    return made


def add_shard(
    path: Path,
    keys: Sequence[bytes],
    vectors: np.ndarray,
    identity: Identity | None = None,
    job: str = "job",
) -> Manifest:
    """Write the next shard and list it in the manifest."""
    manifest = open_store(path, identity)
    seal_shard(path, keys, vectors, identity, job)
    return adopt_shards(path, manifest)


def make_store(
    path: Path, sizes: Sequence[int] = (5, 3), dtype: str = "float32"
) -> tuple[list[bytes], np.ndarray]:
    """Add one shard per size; return their keys and vectors."""
    keys, vectors = make_keys(sum(sizes)), make_vectors(sum(sizes), dtype)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        add_shard(path, keys[part], vectors[part], make_identity(dtype))
        start += size
    return keys, vectors


def make_table(indices: Sequence[int] = (0, 1, 2), name: str = "rows", **fields: Any) -> PairTable:
    """A pair table over the given rows of a store."""
    number = len(indices)
    text = {
        column: [f"{column} {index} \u00e9\n\u201c" for index in range(number)]
        for column in TEXT_COLUMNS
    }
    defaults: dict[str, Any] = {
        "request": "request",
        "settings": {"form": "header", "backbone": {"name": "org/model"}},
        "rows": {
            "plain/prompt": np.array(indices, np.int64),
            "plain/chosen": np.array(indices, np.int64),
            "ctx/rejected": np.array(indices, np.int64)[::-1].copy(),
        },
        "text": text | {"split": ["train"] * number},
        "source_row": np.arange(1, number + 1),
        "pool": np.arange(number) % 2 == 0,
        "margin": np.where(np.arange(number) % 2, np.nan, 1.5),
        "tokens": {
            "chosen": np.arange(number, dtype=np.int32) + 10,
            "rejected": np.arange(number, dtype=np.int32) + 20,
        },
        "account": {"rows": number, "ties": {"brief": 2}},
    }
    return PairTable(name=name, **(defaults | fields))


def silent(_: object) -> None:
    """Discard the output."""


def layout(path: Path) -> str:
    return read_manifest(path).layout()


def vectors_by_pair(store: Path, name: str) -> dict[tuple[str, str], bytes]:
    """The bytes of every vector that a table's pairs use, by pair and role."""
    table, reader = read_pairs(store, name), FeatureStore(store)
    return {
        (pair, key): reader.vectors([row])[0].tobytes()
        for key, rows in table.rows.items()
        for pair, row in zip(table.text["pair_id"], rows.tolist(), strict=True)
        if row != NO_ROW
    }
