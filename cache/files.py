"""Files of a store other than shards, replaced without ever disagreeing with the manifest.

The manifest lists the old and the new content before a file is replaced, and only the new one
afterwards. Whenever the process dies, the file on disk is one that the manifest lists.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..common.files import commit_file
from .manifest import FILE, read_manifest, write_manifest
from .schema import FileSum, Manifest, StoreError, file_checksum

FOLDERS = (("pairs", "*.h5"), ("quarantine", "*.jsonl"), (".", "native_head.h5"))


def replace_file(store: Path, name: str, temporary: Path) -> None:
    """Move a finished temporary file to ``name`` in the store and update the manifest.

    ``name`` is relative to the store, such as ``pairs/rows.h5``. The caller must hold the store's
    lock alone. Without a manifest, as in the directory of a transaction, the file is only moved.
    """
    if not (store / FILE).is_file():
        commit_file(temporary, store / name)
        return
    manifest = read_manifest(store)
    new, old = file_sum(temporary), manifest.files.get(name, ())
    # Both contents first (without a repeat, if they are equal), then the rename, then the new one.
    either = {**manifest.files, name: tuple(dict.fromkeys((*old, new)))}
    write_manifest(store, replace(manifest, files=either))
    commit_file(temporary, store / name)
    write_manifest(store, replace(manifest, files={**manifest.files, name: (new,)}))


def file_sum(path: Path) -> FileSum:
    """Size and checksum of a file, read from disk."""
    return FileSum(path.stat().st_size, file_checksum(path))


def files_of(store: Path) -> list[str]:
    """Names, relative to the store, of the files on disk that a manifest lists beside shards."""
    return sorted(
        str(path.relative_to(store))
        for folder, pattern in FOLDERS
        for path in (store / folder).glob(pattern)
        if path.is_file()
    )


def file_problem(store: Path, manifest: Manifest, name: str) -> str:
    """Describe how a file differs from its manifest entry; empty if it does not.

    ``name`` is relative to the store. Not for shards: see ``verify.shard_problem``.
    """
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
    """Raise ``StoreError`` if a file differs from its manifest entry; format 1 has no entries."""
    if manifest.format > 1 and (problem := file_problem(store, manifest, name)):
        raise StoreError(problem)
