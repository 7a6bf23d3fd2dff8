"""Shards under a temporary name first, the manifest last.

A process may die at any moment: what the manifest lists is whole, a finished shard that it does
not list is adopted later, an unfinished one is removed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from .output import create_hdf5
from .reader import open_shard
from .schema import (
    KEY_BYTES,
    KEY_DTYPE,
    LOGICAL,
    PHYSICAL,
    Identity,
    Manifest,
    Shard,
    StoreError,
    commit_file,
    dataset,
    file_checksum,
    read_manifest,
    write_manifest,
)

ALIGNMENT = 4096


def shard_path(store: Path, number: int) -> Path:
    """Where the shard of a number lies, once it is sealed."""
    return store / "shards" / f"{number:06d}.h5"


def next_shard_number(store: Path) -> int:
    """The number behind the last sealed shard."""
    names = [path.stem for path in (store / "shards").glob("*.h5")]
    return max((int(name) for name in names if name.isdecimal()), default=-1) + 1


def write_shard(
    path: Path, identity: Identity, job: str, keys: np.ndarray, vectors: np.ndarray
) -> None:
    """Seal (n,) keys and (n, D) vectors of the identity's type as one shard.

    ``job`` names the work that it belongs to. Raises ``StoreError`` for a wrong type and for a
    vector that is not finite.
    """
    if vectors.ndim != 2 or vectors.dtype != LOGICAL[identity.dtype] or len(keys) != len(vectors):
        raise StoreError(
            f"{path}: expected {len(keys)} vectors of {identity.dtype}, found {vectors.shape} of "
            f"{vectors.dtype}"
        )
    bad = np.flatnonzero(~np.isfinite(vectors.astype(np.float32)).all(axis=1))
    if bad.size:
        raise StoreError(
            f"{path}: the backbone {identity.backbone} returned NaN or infinity for "
            f"{bad.size} of {len(keys)} sequences; try backbone.dtype=float32"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that claim the same work must not write into one file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    spelled = np.frombuffer(keys.astype(KEY_DTYPE).tobytes(), np.uint8).reshape(-1, KEY_BYTES)
    layout = {"alignment_threshold": 1, "alignment_interval": ALIGNMENT}
    with create_hdf5(temporary, **layout) as file:
        physical = vectors.view(PHYSICAL[identity.dtype])
        file.create_dataset("vectors", data=physical, track_times=False)
        file.create_dataset("keys", data=spelled, track_times=False)
        file.attrs["logical_dtype"] = identity.dtype
        file.attrs["identity"] = json.dumps(asdict(identity))
        file.attrs["job"] = job
    commit_file(temporary, path)


def recover_store(store: Path) -> None:
    """Bring a store that a killed process left behind in order; the caller holds it alone.

    Finished shards that the manifest does not list are adopted, unfinished files removed.
    """
    if (store / "manifest.json").is_file():
        adopt_shards(store, read_manifest(store))


def adopt_shards(store: Path, manifest: Manifest) -> Manifest:
    """List sealed shards in the order of their numbers; drop unfinished files.

    Raises ``StoreError`` for a shard of another store.
    """
    for unfinished in store.glob("**/*.tmp"):
        unfinished.unlink()
    listed = {shard.name for shard in manifest.shards}
    found = [path for path in sorted((store / "shards").glob("*.h5")) if path.name not in listed]
    if found:
        sealed = [_describe_shard(path, manifest) for path in found]
        manifest = replace(manifest, shards=(*manifest.shards, *sealed))
        write_manifest(store, manifest)
    return manifest


def _describe_shard(path: Path, manifest: Manifest) -> Shard:
    with open_shard(path) as file:
        rows, width = dataset(file, "vectors").shape
        if width != manifest.width or dataset(file, "keys").shape != (rows, KEY_BYTES):
            raise StoreError(f"{path}: not a shard of this store; move it away")
        try:
            identity = Identity(**json.loads(str(file.attrs["identity"])))
            job = str(file.attrs["job"])
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{path}: not a shard ({error}); move it away") from error
        if manifest.identity.differences(identity):
            raise StoreError(f"{path}: written under another identity; move it away")
    return Shard(path.name, rows, path.stat().st_size, file_checksum(path), job)


def open_manifest(store: Path, identity: Identity, width: int) -> Manifest:
    """The manifest of a store, a new one if there is none.

    Raises ``StoreError`` if the store was written under another identity.
    """
    if not (store / "manifest.json").is_file():
        (store / "shards").mkdir(parents=True, exist_ok=True)
        manifest = Manifest(identity=identity, width=width)
        write_manifest(store, manifest)
        return manifest
    manifest = read_manifest(store)
    require_identity(store, manifest, identity)
    if manifest.width != width:
        raise StoreError(
            f"{store}: vectors have width {manifest.width}, the backbone gives {width}"
        )
    return manifest


def require_identity(store: Path, manifest: Manifest, identity: Identity) -> None:
    """Refuse a store that was written under another identity, naming the fields."""
    differences = manifest.identity.differences(identity)
    if differences:
        raise StoreError(
            f"{store}: written under another identity ({'; '.join(differences)}); "
            "choose another store.dir, or restore the settings that the store was made with"
        )
