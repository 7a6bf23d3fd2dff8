"""Small stores with known content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.manifest import checksum_of
from micro_rm.cache.pairs import TEXT_COLUMNS, PairTable
from micro_rm.cache.schema import KEY_DTYPE, LOGICAL, Identity, Manifest
from micro_rm.cache.writer import (
    adopt_shards,
    next_shard_number,
    open_manifest,
    shard_path,
    write_shard,
)

WIDTH = 6


def _make_identity(dtype: str = "float32", **changes: Any) -> Identity:
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


@pytest.fixture(scope="session")
def make_identity() -> Callable[..., Identity]:
    """``make_identity(dtype="float32", **fields)``."""
    return _make_identity


@pytest.fixture(scope="session")
def edit_manifest() -> Callable[..., None]:
    """``edit_manifest(store, edit)``: edit its JSON and renew the checksum."""

    def change(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
        path = store / "manifest.json"
        raw = json.loads(path.read_text("utf-8"))
        edit(raw)
        path.write_text(json.dumps(raw | {"checksum": checksum_of(raw)}), "utf-8")

    return change


@pytest.fixture(scope="session")
def make_keys() -> Callable[..., list[bytes]]:
    """``make_keys(n, start=0)``: distinct keys, with many zero bytes at either end."""

    def make(number: int, start: int = 0) -> list[bytes]:
        keys = []
        for index in range(start, start + number):
            digits = (index + 1).to_bytes(2, "big")
            keys.append(digits + bytes(14) if index % 2 else bytes(14) + digits)
        return keys

    return make


@pytest.fixture(scope="session")
def make_vectors() -> Callable[..., np.ndarray]:
    """``make_vectors(n, dtype="float32", seed=0)``: random finite bit patterns."""

    def make(number: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
        logical = LOGICAL[dtype]
        random = np.random.default_rng(seed)
        bits = np.dtype(f"u{logical.itemsize}")
        drawn = random.integers(0, np.iinfo(bits).max, (number, WIDTH), bits).view(logical)
        return np.where(np.isfinite(drawn.astype(np.float32)), drawn, np.zeros(1, logical))

    return make


@pytest.fixture(scope="session")
def open_store() -> Callable[..., Manifest]:
    """``open_store(path, identity=None, width=6)``: the manifest, a new one if there is none."""

    def open_or_make(path: Path, identity: Identity | None = None, width: int = WIDTH) -> Manifest:
        return open_manifest(path, identity or _make_identity(), width)

    return open_or_make


@pytest.fixture(scope="session")
def seal_shard() -> Callable[..., Path]:
    """``seal_shard(path, keys, vectors, identity=None, job="job")``: the next shard, unlisted."""

    def seal(
        path: Path,
        keys: Sequence[bytes],
        vectors: np.ndarray,
        identity: Identity | None = None,
        job: str = "job",
    ) -> Path:
        made = shard_path(path, next_shard_number(path))
        write_shard(made, identity or _make_identity(), job, np.array(keys, KEY_DTYPE), vectors)
        return made

    return seal


@pytest.fixture(scope="session")
def add_shard(
    open_store: Callable[..., Manifest], seal_shard: Callable[..., Path]
) -> Callable[..., Manifest]:
    """The same arguments as ``seal_shard``; lists the shard in the manifest."""

    def add(path: Path, *content: Any, identity: Identity | None = None, **job: str) -> Manifest:
        manifest = open_store(path, identity)
        seal_shard(path, *content, identity=identity, **job)
        return adopt_shards(path, manifest)

    return add


@pytest.fixture(scope="session")
def make_store(
    add_shard: Callable[..., Manifest],
    make_keys: Callable[..., list[bytes]],
    make_vectors: Callable[..., np.ndarray],
) -> Callable[..., tuple[list[bytes], np.ndarray]]:
    """``make_store(path, sizes=(5, 3), dtype="float32")``: one shard per size; its content."""

    def make(
        path: Path, sizes: Sequence[int] = (5, 3), dtype: str = "float32"
    ) -> tuple[list[bytes], np.ndarray]:
        keys, vectors = make_keys(sum(sizes)), make_vectors(sum(sizes), dtype)
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            add_shard(path, keys[part], vectors[part], identity=_make_identity(dtype))
            start += size
        return keys, vectors

    return make


@pytest.fixture(scope="session")
def make_table() -> Callable[..., PairTable]:
    """``make_table(indices=[...], name="rows", **fields)``: a pair table over the given rows."""

    def make(indices: Sequence[int] = (0, 1, 2), name: str = "rows", **fields: Any) -> PairTable:
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

    return make
