"""The files of a store beside its shards, replaced so that the manifest always knows them.

Before a file takes its place the manifest lists what it was and what it will be, afterwards only
what it is: at no moment is there a file that the manifest cannot vouch for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..common.files import commit_file
from .manifest import FILE, read_manifest, write_manifest
from .schema import FileSum, Manifest, StoreError, file_checksum

FOLDERS = (("pairs", "*.h5"), ("quarantine", "*.jsonl"), (".", "native_head.h5"))


def replace_file(store: Path, name: str, temporary: Path) -> None:
    """Give a finished file its name in the store (a name such as ``pairs/rows.h5``).

    The caller is the only writer. Without a manifest there is nothing that could list it.
    """
    if not (store / FILE).is_file():
        commit_file(temporary, store / name)
        return
    manifest = read_manifest(store)
    made, before = file_sum(temporary), manifest.files.get(name, ())
    known = {**manifest.files, name: tuple(dict.fromkeys((*before, made)))}
    write_manifest(store, replace(manifest, files=known))
    commit_file(temporary, store / name)
    write_manifest(store, replace(manifest, files={**manifest.files, name: (made,)}))


def file_sum(path: Path) -> FileSum:
    """Size and checksum of a file as it lies on the disk."""
    return FileSum(path.stat().st_size, file_checksum(path))


def files_of(store: Path) -> list[str]:
    """Names of the files that a manifest lists beside shards, as they lie on the disk."""
    return sorted(
        str(path.relative_to(store))
        for folder, pattern in FOLDERS
        for path in (store / folder).glob(pattern)
        if path.is_file()
    )


def file_problem(store: Path, manifest: Manifest, name: str) -> str:
    """What is wrong with a file beside the shards; empty if it is what the manifest lists."""
    path = store / name
    known = manifest.files.get(name)
    if not path.is_file():
        return f"{path}: missing; restore it from a copy, or run micro-rm embed again"
    if known is None:
        return (
            f"{path}: not in the manifest, nothing vouches for it; run micro-rm embed for this "
            "data set, or remove it"
        )
    found = file_sum(path)
    if found in known:
        return ""
    listed = " or ".join(f"{item.bytes:,} bytes {item.checksum}" for item in known)
    return (
        f"{path}: bytes differ from the manifest (expected {listed}; found {found.bytes:,} bytes "
        f"{found.checksum}); restore it from a copy, or run micro-rm embed for this data set again"
    )


def require_file(store: Path, manifest: Manifest, name: str) -> None:
    """Refuse a file that is not what the manifest lists; format 1 listed none of them."""
    if manifest.format > 1 and (problem := file_problem(store, manifest, name)):
        raise StoreError(problem)
