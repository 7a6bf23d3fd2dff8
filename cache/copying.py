"""Copy a store: every file is checked against its checksum on the way, the manifest goes last."""

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
    """Copy every file that the manifest lists, then verify the copy.

    The manifest is written last, so an interrupted copy is not yet a store and can be repeated.

    Returns:
        What ``verify_store`` says of the copy.

    Raises:
        StoreError: The source is damaged or in use, or the target already holds a store or has too
            little free space.
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
        expected: dict[str, tuple[FileSum, ...]] = {
            f"shards/{s.name}": (FileSum(s.bytes, s.checksum),) for s in manifest.shards
        }
        expected |= manifest.files
        needed = sum(sums[-1].bytes for sums in expected.values())
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
        if free < needed:
            raise StoreError(f"{target}: {needed:,} bytes are needed, {free:,} are free")
        for name, sums in sorted(expected.items()):
            _copy_file(source / name, target / name, sums)
        write_manifest(target, manifest)
    verdict = verify_store(target)
    if verdict.problems:
        raise StoreError(f"{target}: the copy is damaged ({verdict.problems[0]}); copy again")
    return verdict


def _copy_file(source: Path, target: Path, sums: tuple[FileSum, ...]) -> None:
    """Copy one file whose content must be one of ``sums``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    digest = xxhash.xxh3_128()
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            while block := reader.read(BLOCK):
                digest.update(block)
                writer.write(block)
        copied = FileSum(temporary.stat().st_size, digest.hexdigest())
        if copied not in sums:
            raise StoreError(
                f"{source}: its bytes are not those that the manifest lists, and no file after it "
                "was copied; micro-rm verify says what to do"
            )
        commit_file(temporary, target)
    except FileNotFoundError as error:
        raise StoreError(f"{source}: missing; micro-rm verify says what to do") from error
    finally:
        temporary.unlink(missing_ok=True)
