"""Verify a store in full: the checksum of every file, and what a checksum cannot tell.

That is: vectors that are not finite, keys stored twice, row indices out of range, and files that
the manifest does not list. Each problem is a sentence that names the file and the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .files import file_problem, files_of
from .manifest import read_manifest
from .native_head import FILE, read_native_head
from .pairs import NO_ROW, read_pairs
from .reader import open_vectors, read_keys
from .schema import (
    KEY_DTYPE,
    Manifest,
    Shard,
    StoreError,
    file_checksum,
    first_not_finite,
    plan_path,
)

BLOCK_ROWS = 16384  # rows tested at once


@dataclass
class Verdict:
    """Result of a verification: counts of what was checked, and every problem as a sentence.

    ``notes`` say what could not be checked, and what is unusual but no problem.
    """

    shards: int = 0
    vectors: int = 0
    bytes: int = 0
    files: int = 0
    pair_tables: int = 0
    pairs: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_store(store: Path) -> Verdict:
    """Check every file of a store against its manifest, reading all of it.

    Problems are collected, not raised, so that one damaged shard does not hide another.

    Returns:
        The counts, problems and notes; the store is sound if there are no problems.

    Raises:
        StoreError: The manifest is missing or cannot be read.
    """
    manifest = read_manifest(store)
    verdict = Verdict()
    keys, start = [], 0
    for shard in manifest.shards:
        keys.append(_verify_shard(store, manifest, shard, start, verdict))
        start += shard.rows
    _verify_keys(np.concatenate(keys) if keys else np.empty(0, KEY_DTYPE), store, verdict)
    _report_strays(store, manifest, verdict)
    if manifest.format == 1:
        verdict.notes.append(
            f"{store}: format 1 has no checksums of pair tables and quarantine; their bytes were "
            f"not checked. micro-rm verify {store} --rebuild, or the next embed, records them"
        )
    for name in sorted({*manifest.files, *files_of(store)}):
        problem = file_problem(store, manifest, name) if manifest.format > 1 else ""
        verdict.files += 1
        if problem:
            verdict.problems.append(problem)
        elif name.startswith("pairs/"):
            _verify_table(store, Path(name).stem, manifest, verdict)
        elif name == FILE:
            _verify_native_head(store, manifest.width, verdict)
    return verdict


def shard_problem(store: Path, manifest: Manifest, shard: Shard) -> str:
    """Describe how the bytes of a shard differ from its manifest entry; empty if they do not."""
    path = store / "shards" / shard.name
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{path}: bytes differ from the manifest (expected {shard.bytes:,}, found {size:,})"
    if file_checksum(path) != shard.checksum:
        return f"{path}: bytes differ from the manifest (checksum {shard.checksum} expected)"
    return ""


def _verify_shard(
    store: Path, manifest: Manifest, shard: Shard, start: int, verdict: Verdict
) -> np.ndarray:
    """Check a shard whose first global row is ``start``; its keys, none if it is damaged."""
    path = store / "shards" / shard.name
    verdict.shards += 1
    held = f"it holds rows {start} to {start + shard.rows - 1} of the store"
    problem = shard_problem(store, manifest, shard)
    if problem:
        verdict.problems.append(
            f"{problem}; {held}. Restore it from a copy, or micro-rm verify {store} --rebuild sets "
            "it aside and micro-rm embed embeds what is lost"
        )
        return np.empty(0, KEY_DTYPE)
    try:
        vectors = open_vectors(path, manifest, shard)
        keys = read_keys(path)
    except StoreError as error:
        verdict.problems.append(f"{error}; {held}")
        return np.empty(0, KEY_DTYPE)
    for first in range(0, shard.rows, BLOCK_ROWS):
        bad = first_not_finite(vectors[first : first + BLOCK_ROWS])
        if bad is not None:
            verdict.problems.append(
                f"{path}: NaN or infinity in row {first + bad}; {held}. micro-rm verify {store} "
                "--rebuild sets the shard aside and micro-rm embed embeds it again"
            )
            break
    verdict.vectors += shard.rows
    verdict.bytes += shard.bytes
    return keys


def _verify_keys(keys: np.ndarray, store: Path, verdict: Verdict) -> None:
    distinct = np.unique(keys).size
    if distinct != keys.size:
        verdict.problems.append(
            f"{store}: {keys.size - distinct} sequences are stored more than once"
        )


def _report_strays(store: Path, manifest: Manifest, verdict: Verdict) -> None:
    """Report files in ``shards/`` that the manifest does not list.

    While a job is unfinished they are no problem: its shards are listed when all are sealed.
    """
    listed = {shard.name for shard in manifest.shards}
    if plan_path(store).exists():
        verdict.notes.append(
            f"{store}: a job is unfinished; its sealed shards are checked when it is finished, by "
            "the same micro-rm embed"
        )
        return
    for path in sorted((store / "shards").glob("*")):
        if path.name not in listed:
            verdict.problems.append(
                f"{path}: not in the manifest; the next micro-rm embed adopts or removes it"
            )


def _verify_table(store: Path, name: str, manifest: Manifest, verdict: Verdict) -> None:
    """Check that the columns of a pair table fit together and point into the store."""
    try:
        table = read_pairs(store, name)
    except StoreError as error:
        verdict.problems.append(str(error))
        return
    verdict.pair_tables += 1
    verdict.pairs += len(table)
    again = "run micro-rm embed again"
    if not manifest.fits(table.layout):
        verdict.problems.append(f"{name}: its row numbers are those of other shards; {again}")
    for key, rows in table.rows.items():
        if rows.size != len(table):
            verdict.problems.append(
                f"{name}: {rows.size} rows in {key} for {len(table)} pairs; {again}"
            )
        elif rows.size and (rows.min() < NO_ROW or rows.max() >= manifest.rows):
            verdict.problems.append(
                f"{name}: {key} points to rows {rows.min()}..{rows.max()} of {manifest.rows}; "
                f"{again}"
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
