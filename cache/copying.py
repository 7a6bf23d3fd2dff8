"""A store copied into another directory: every byte compared on the way, the manifest last."""

from __future__ import annotations

import shutil
from pathlib import Path

import xxhash

from ..common.files import commit_file
from .lock import StoreLock
from .manifest import read_manifest, write_manifest
from .schema import FileSum, StoreError, plan_path, transaction_path
from .verify import Verdict, verify_store

BLOCK = 1 << 22


def copy_store(source: Path, target: Path) -> Verdict:
    """Copy all that the manifest lists, then read the copy back in full.

    Raises ``StoreError`` if the source is damaged or at work, or if the target has a store already
    or too little space.
    """
    if (target / "manifest.json").exists() or transaction_path(target).exists():
        raise StoreError(
            f"{target}: there is a store already; micro-rm verify checks it, or name an empty "
            "directory"
        )
    manifest = read_manifest(source)
    with StoreLock(source) as lock:
        if not lock.acquire():
            raise lock.busy_error()
        if plan_path(source).exists():
            raise StoreError(
                f"{source}: a job is unfinished; finish it with the same micro-rm embed"
            )
        if manifest.format == 1:
            raise StoreError(
                f"{source}: format 1 cannot vouch for all of its files; run micro-rm verify "
                f"{source} --rebuild first"
            )
        wanted: dict[str, tuple[FileSum, ...]] = {
            f"shards/{s.name}": (FileSum(s.bytes, s.checksum),) for s in manifest.shards
        }
        wanted |= manifest.files
        needed = sum(sums[-1].bytes for sums in wanted.values())
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
        if free < needed:
            raise StoreError(f"{target}: {needed:,} bytes are needed, {free:,} are free")
        for name, sums in sorted(wanted.items()):
            _copy_file(source / name, target / name, sums)
        write_manifest(target, manifest)
    verdict = verify_store(target)
    if verdict.problems:
        raise StoreError(f"{target}: the copy is damaged ({verdict.problems[0]}); copy again")
    return verdict


def _copy_file(source: Path, target: Path, sums: tuple[FileSum, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    digest = xxhash.xxh3_128()
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            while block := reader.read(BLOCK):
                digest.update(block)
                writer.write(block)
        found = FileSum(temporary.stat().st_size, digest.hexdigest())
        if found not in sums:
            raise StoreError(
                f"{source}: its bytes are not those that the manifest lists, nothing was copied "
                "behind it; micro-rm verify says what to do"
            )
        commit_file(temporary, target)
    except FileNotFoundError as error:
        raise StoreError(f"{source}: missing; micro-rm verify says what to do") from error
    finally:
        temporary.unlink(missing_ok=True)
