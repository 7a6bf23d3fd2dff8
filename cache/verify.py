"""Reading a store back in full: counts, checksums, keys, finiteness, row indices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .native_head import FILE, read_native_head
from .pairs import NO_ROW, read_pairs, table_names
from .reader import open_vectors, read_keys
from .schema import KEY_DTYPE, Manifest, Shard, StoreError, file_checksum, plan_path, read_manifest

BLOCK_ROWS = 16384


@dataclass
class Verdict:
    """What was checked, in counts, and every problem found, as sentences."""

    shards: int = 0
    vectors: int = 0
    bytes: int = 0
    pair_tables: int = 0
    pairs: int = 0
    problems: list[str] = field(default_factory=list)


def verify_store(store: Path) -> Verdict:
    """Check every byte of a store against its manifest.

    Problems are collected, not raised, so that one damaged shard does not hide another; only a
    missing or unreadable manifest raises ``StoreError``.
    """
    manifest = read_manifest(store)
    verdict = Verdict()
    keys = [_verify_shard(store, manifest, shard, verdict) for shard in manifest.shards]
    _verify_keys(np.concatenate(keys) if keys else np.empty(0, KEY_DTYPE), store, verdict)
    listed = {shard.name for shard in manifest.shards}
    # What a running or stopped job has sealed is listed when the job is finished.
    stray = [] if plan_path(store).exists() else sorted((store / "shards").glob("*"))
    for path in stray:
        if path.name not in listed:
            verdict.problems.append(
                f"{path}: not in the manifest; the next micro-rm embed adopts or removes it"
            )
    for name in table_names(store):
        _verify_table(store, name, manifest.rows, verdict)
    _verify_native_head(store, manifest.width, verdict)
    return verdict


def _verify_shard(store: Path, manifest: Manifest, shard: Shard, verdict: Verdict) -> np.ndarray:
    path = store / "shards" / shard.name
    verdict.shards += 1
    if not path.is_file():
        verdict.problems.append(f"{path}: missing; restore it, or embed into a new store.dir")
        return np.empty(0, KEY_DTYPE)
    if path.stat().st_size != shard.bytes or file_checksum(path) != shard.checksum:
        verdict.problems.append(
            f"{path}: bytes differ from the manifest (expected {shard.bytes} bytes, checksum "
            f"{shard.checksum}); restore it, or embed into a new store.dir"
        )
        return np.empty(0, KEY_DTYPE)
    try:
        vectors = open_vectors(path, manifest, shard)
        keys = read_keys(path)
    except StoreError as error:
        verdict.problems.append(str(error))
        return np.empty(0, KEY_DTYPE)
    for start in range(0, shard.rows, BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS], np.float32)
        bad = start + np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            verdict.problems.append(f"{path}: NaN or infinity in rows {bad[:10].tolist()}")
    verdict.vectors += shard.rows
    verdict.bytes += shard.bytes
    return keys


def _verify_keys(keys: np.ndarray, store: Path, verdict: Verdict) -> None:
    distinct = np.unique(keys).size
    if distinct != keys.size:
        verdict.problems.append(
            f"{store}: {keys.size - distinct} sequences are stored more than once"
        )


def _verify_table(store: Path, name: str, stored: int, verdict: Verdict) -> None:
    try:
        table = read_pairs(store, name)
    except StoreError as error:
        verdict.problems.append(str(error))
        return
    verdict.pair_tables += 1
    verdict.pairs += len(table)
    for key, rows in table.rows.items():
        if rows.size != len(table):
            verdict.problems.append(f"{name}: {rows.size} rows in {key} for {len(table)} pairs")
        elif rows.size and (rows.min() < NO_ROW or rows.max() >= stored):
            verdict.problems.append(
                f"{name}: {key} points to rows {rows.min()}..{rows.max()} of {stored}; "
                "run micro-rm embed again"
            )


def _verify_native_head(store: Path, width: int, verdict: Verdict) -> None:
    try:
        head_D = read_native_head(store)
    except StoreError as error:
        verdict.problems.append(str(error))
        return
    if head_D is not None and (head_D.shape != (width,) or not np.isfinite(head_D).all()):
        verdict.problems.append(
            f"{store / FILE}: expected {width} finite weights, found shape {head_D.shape}; run "
            "micro-rm embed again"
        )
