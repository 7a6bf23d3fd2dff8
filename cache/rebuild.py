"""Rebuild the manifest of a store from its files, if it is lost or disagrees with them.

This is possible because every shard carries its identity and a checksum of its content. Files that
fail a check are moved to ``damaged/``, never deleted. Embedding the data again then computes only
the vectors that were lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from .files import file_problem, file_sum, files_of
from .hdf5 import open_hdf5
from .lock import StoreLock
from .manifest import SHARD_NAME, read_manifest, write_manifest
from .native_head import FILE as HEAD
from .native_head import read_native_head
from .pairs import read_pairs
from .reader import open_vectors, shard_identity
from .schema import FileSum, Identity, Manifest, Shard, StoreError, first_not_finite
from .transaction import finish_transaction
from .verify import shard_problem
from .writer import describe_shard

DAMAGED = "damaged"
T = TypeVar("T")


@dataclass
class RebuildReport:
    """Result of a rebuild.

    Counts of what the manifest lists, a sentence per file that was ``set_aside``, and the names of
    the pair tables that refer to lost shards and must be embedded again.
    """

    shards: int = 0
    vectors: int = 0
    files: int = 0
    set_aside: list[str] = field(default_factory=list)
    outdated_tables: list[str] = field(default_factory=list)


def rebuild_manifest(store: Path) -> RebuildReport:
    """Write a manifest of all files of a store that pass their checks; set the others aside.

    Takes the store's lock. If the old manifest can be read, its checksums are checked as well.

    Raises:
        StoreError: Another process is writing, no shard can be read, or a newer version of micro-rm
            wrote the store.
    """
    if not (store / "shards").is_dir():
        raise StoreError(f"{store}: no shards here, nothing to rebuild from; run micro-rm embed")
    with StoreLock(store) as lock:
        if not lock.acquire():
            raise lock.busy_error()
        lock.announce("rebuild")
        finish_transaction(store)
        before = _manifest_or_none(store)
        report = RebuildReport()
        identity, width = (before.identity, before.width) if before else _identity_of(store)
        sound_shard = partial(_sound_shard, before=before, identity=identity, width=width)
        sound_file = partial(_sound_file, store=store, before=before)
        shards: list[Shard] = []
        numbers = [-1]
        for path in sorted((store / "shards").iterdir()):
            if not SHARD_NAME.fullmatch(path.name):
                continue  # unfinished work, which the next embed removes
            numbers.append(int(path.stem))
            shard = _check_or_set_aside(report, store, path, sound_shard)
            if shard is not None:
                shards.append(shard)
        shards.sort(key=lambda shard: int(shard.name.removesuffix(".h5")))
        # Above the numbers of shards that were set aside, too: a table that refers to a lost shard
        # must not find another one under its name.
        next_shard = max(max(numbers) + 1, before.next_shard if before else 0)
        manifest = Manifest(identity, width, tuple(shards), next_shard=next_shard)
        files: dict[str, tuple[FileSum, ...]] = {}
        for name in files_of(store):
            checked = _check_or_set_aside(report, store, store / name, sound_file)
            if checked is not None:
                files[name] = (checked,)
        write_manifest(store, Manifest(identity, width, tuple(shards), files, next_shard))
        for name in files:
            if name.startswith("pairs/"):
                table = read_pairs(store, Path(name).stem)
                # A table of format 1 has no layout: it is valid only if no shard was ever lost.
                complete = len(shards) == next_shard
                if not (manifest.fits(table.layout) if table.layout else complete):
                    report.outdated_tables.append(table.name)
        report.shards, report.vectors, report.files = len(shards), manifest.rows, len(files)
        return report


def _manifest_or_none(store: Path) -> Manifest | None:
    """The manifest, None if it is missing or damaged; that of a newer version raises."""
    try:
        return read_manifest(store)
    except StoreError as error:
        if "newer" in str(error):
            raise
        return None


def _identity_of(store: Path) -> tuple[Identity, int]:
    """Identity and width of the store, taken from the first shard that can be read."""
    for path in sorted((store / "shards").glob("*.h5")):
        try:
            with open_hdf5(path) as file:
                identity, _ = shard_identity(file)
                return identity, int(file["vectors"].shape[1])  # type: ignore[union-attr]
        except StoreError:
            continue
    raise StoreError(f"{store}: no shard can be read; restore the store from a copy")


def _check_or_set_aside(
    report: RebuildReport, store: Path, path: Path, check: Callable[[Path], T]
) -> T | None:
    """Result of a check of a file; None, and the file is set aside, if the check fails."""
    try:
        return check(path)
    except (StoreError, ValueError) as error:
        target = store / DAMAGED / path.name
        target.parent.mkdir(exist_ok=True)
        while target.exists():  # set aside before: keep both
            target = target.with_name(f"{target.name}.again")
        os.replace(path, target)
        report.set_aside.append(f"{error} (now {target})")
        return None


def _sound_shard(path: Path, before: Manifest | None, identity: Identity, width: int) -> Shard:
    """Manifest entry of a shard; ``StoreError`` if it fails a check."""
    listed = {shard.name: shard for shard in before.shards} if before else {}
    if before is not None and path.name in listed:
        problem = shard_problem(path.parent.parent, before, listed[path.name])
        if problem:
            raise StoreError(problem)
    shard = describe_shard(path, identity, width)
    bad = first_not_finite(open_vectors(path, Manifest(identity, width), shard))
    if bad is not None:
        raise StoreError(f"{path}: NaN or infinity in row {bad}")
    return shard


def _sound_file(path: Path, store: Path, before: Manifest | None) -> FileSum:
    """Manifest entry of another file; ``StoreError`` or ``ValueError`` if it fails a check."""
    name = str(path.relative_to(store))
    if before is not None and name in before.files:
        problem = file_problem(store, before, name)
        if problem:
            raise StoreError(problem)
    elif name.startswith("pairs/"):
        read_pairs(store, path.stem)
    elif name == HEAD:
        read_native_head(store)
    else:
        for line in path.read_text("utf-8").splitlines():
            json.loads(line)
    return file_sum(path)
