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
import xxhash

from ..common.files import commit_file
from .failed import write_failed_keys
from .hdf5 import dataset, open_hdf5
from .manifest import FILE, read_manifest, write_manifest
from .output import create_hdf5
from .reader import shard_identity
from .schema import (
    KEY_BYTES,
    KEY_DTYPE,
    LOGICAL,
    PHYSICAL,
    Identity,
    Manifest,
    Shard,
    StoreError,
    file_checksum,
    first_not_finite,
)
from .transaction import finish_transaction

ALIGNMENT = 4096


def shard_path(store: Path, number: int) -> Path:
    """Where the shard of a number lies, once it is sealed."""
    return store / "shards" / f"{number:06d}.h5"


def next_shard_number(store: Path) -> int:
    """A number behind all sealed shards that no removed one had either."""
    names = [path.stem for path in (store / "shards").glob("*.h5")]
    behind = max((int(name) for name in names if name.isdecimal()), default=-1) + 1
    return max(behind, read_manifest(store).next_shard) if (store / FILE).is_file() else behind


def write_shard(
    path: Path,
    identity: Identity,
    job: str,
    keys: np.ndarray,
    vectors: np.ndarray,
    failed: np.ndarray | None = None,
) -> None:
    """Seal (n,) keys and (n, D) vectors of the identity's type as one shard.

    ``job`` names the work that it belongs to, ``failed`` are (m,) keys that the backbone has no
    finite vector for. Raises ``StoreError`` for a wrong type and for a vector that is not finite.
    """
    if vectors.ndim != 2 or vectors.dtype != LOGICAL[identity.dtype] or len(keys) != len(vectors):
        raise StoreError(
            f"{path}: expected {len(keys)} vectors of {identity.dtype}, found {vectors.shape} of "
            f"{vectors.dtype}"
        )
    if first_not_finite(vectors) is not None:
        bad = np.flatnonzero(~np.isfinite(vectors.astype(np.float32)).all(axis=1))
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
        if failed is not None:
            write_failed_keys(file, failed)
        file.attrs["logical_dtype"] = identity.dtype
        file.attrs["identity"] = json.dumps(asdict(identity))
        file.attrs["job"] = job
        file.attrs["checksum"] = content_checksum(spelled, physical)
    commit_file(temporary, path)


def content_checksum(keys: np.ndarray, vectors: np.ndarray) -> str:
    """XXH3-128 of a shard's keys and vectors: what vouches for it when the manifest is lost."""
    digest = xxhash.xxh3_128()
    for array in (keys, vectors):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def recover_store(store: Path) -> None:
    """Bring a store that a killed process left behind in order; the caller holds it alone.

    Finished shards that the manifest does not list are adopted, unfinished files removed, and a
    change that was committed is carried out.
    """
    finish_transaction(store)
    if (store / FILE).is_file():
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
        sealed = [describe_shard(path, manifest.identity, manifest.width) for path in found]
        # Behind the others whatever its number: row numbers of what is listed must not move.
        shards = (*manifest.shards, *sealed)
        manifest = replace(manifest, shards=shards, next_shard=next_shard_number(store))
        write_manifest(store, manifest)
    return manifest


def describe_shard(path: Path, identity: Identity, width: int) -> Shard:
    """A sealed shard as a manifest lists it.

    Raises ``StoreError`` for a file that is no shard of such a store, or damaged.
    """
    with open_hdf5(path) as file:
        vectors, keys = dataset(file, "vectors"), dataset(file, "keys")
        if (
            vectors.ndim != 2
            or vectors.shape[1] != width
            or keys.shape != (len(vectors), KEY_BYTES)
        ):
            raise StoreError(f"{path}: not a shard of this store; move it away")
        found, job = shard_identity(file)
        if identity.differences(found):
            raise StoreError(f"{path}: written under another identity; move it away")
        expected = file.attrs.get("checksum")  # format 1 had none
        if expected is not None and content_checksum(keys[:], vectors[:]) != expected:
            raise StoreError(f"{path}: its content is not what was sealed; move it away")
        rows = len(vectors)
    return Shard(path.name, rows, path.stat().st_size, file_checksum(path), job)


def open_manifest(store: Path, identity: Identity, width: int) -> Manifest:
    """The manifest of a store, a new one if there is none.

    Raises ``StoreError`` if the store was written under another identity.
    """
    finish_transaction(store)
    if not (store / FILE).is_file():
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


def require_weights(store: Path, manifest: Manifest, weights: str) -> None:
    """Refuse a store of another model by the sha256 of its weights, before they are loaded."""
    require_identity(store, manifest, replace(manifest.identity, weights=weights))


def require_identity(store: Path, manifest: Manifest, identity: Identity) -> None:
    """Refuse a store that was written under another identity, naming the fields."""
    differences = manifest.identity.differences(identity)
    if differences:
        raise StoreError(
            f"{store}: written under another identity ({'; '.join(differences)}); "
            "choose another store.dir, or restore the settings that the store was made with"
        )
