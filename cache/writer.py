"""Write shards and list them in the manifest, such that a crash at any moment loses nothing sealed.

A shard is written under a temporary name, synced and renamed ("sealed"); the manifest is updated
last. So whatever the manifest lists is complete. After a crash, sealed shards that it does not list
are adopted, and temporary files are removed.
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

ALIGNMENT = 4096  # bytes; vectors start on a page of the memory map


def shard_path(store: Path, number: int) -> Path:
    """File of the sealed shard of a number."""
    return store / "shards" / f"{number:06d}.h5"


def next_shard_number(store: Path) -> int:
    """Number for a new shard: above all sealed ones, and above all that the store ever had.

    Numbers are not reused, because an open reader would take the new file for the removed one.
    """
    names = [path.stem for path in (store / "shards").glob("*.h5")]
    above = max((int(name) for name in names if name.isdecimal()), default=-1) + 1
    return max(above, read_manifest(store).next_shard) if (store / FILE).is_file() else above


def write_shard(
    path: Path,
    identity: Identity,
    job: str,
    keys: np.ndarray,
    vectors: np.ndarray,
    failed: np.ndarray | None = None,
) -> None:
    """Write and seal one shard. It is not part of the store until ``adopt_shards`` lists it.

    Args:
        path: Final file of the shard (see ``shard_path``).
        identity: Identity of the store.
        job: Id of the embedding job that the shard belongs to.
        keys: (n,) sequence keys.
        vectors: (n, D) vectors in the dtype of the identity.
        failed: (m,) keys of the job's sequences that have no finite vector.

    Raises:
        StoreError: The vectors have another dtype or number, or hold NaN or infinity.
        OSError: The disk is full; the unfinished file is removed.
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
    # With the process id: where a file system loses locks, two processes may write the same shard.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # As (n, 16) bytes, because NumPy and HDF5 strip trailing zero bytes from strings.
    key_bytes = np.frombuffer(keys.astype(KEY_DTYPE).tobytes(), np.uint8).reshape(-1, KEY_BYTES)
    layout = {"alignment_threshold": 1, "alignment_interval": ALIGNMENT}
    with create_hdf5(temporary, **layout) as file:
        physical = vectors.view(PHYSICAL[identity.dtype])
        file.create_dataset("vectors", data=physical, track_times=False)
        file.create_dataset("keys", data=key_bytes, track_times=False)
        if failed is not None:
            write_failed_keys(file, failed)
        file.attrs["logical_dtype"] = identity.dtype
        file.attrs["identity"] = json.dumps(asdict(identity))
        file.attrs["job"] = job
        file.attrs["checksum"] = content_checksum(key_bytes, physical)
    commit_file(temporary, path)


def content_checksum(keys: np.ndarray, vectors: np.ndarray) -> str:
    """XXH3-128 of a shard's keys and vectors, by which it is verified if the manifest is lost.

    ``keys`` are (n, 16) bytes, ``vectors`` (n, D) in the type on disk.
    """
    digest = xxhash.xxh3_128()
    for array in (keys, vectors):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def recover_store(store: Path) -> None:
    """Clean up after a process that was killed; the caller must hold the store's lock alone.

    Finishes a committed transaction, adopts sealed shards that the manifest does not list, and
    removes temporary files. Does nothing where there is no store.
    """
    finish_transaction(store)
    if (store / FILE).is_file():
        adopt_shards(store, read_manifest(store))


def adopt_shards(store: Path, manifest: Manifest) -> Manifest:
    """Append the sealed shards that a manifest does not list, and remove temporary files.

    The caller must hold the store's lock alone. Returns the manifest as it is on disk then. Raises
    ``StoreError`` for a shard that is damaged or belongs to another store.
    """
    for unfinished in store.glob("**/*.tmp"):
        unfinished.unlink()
    listed = {shard.name for shard in manifest.shards}
    paths = [path for path in sorted((store / "shards").glob("*.h5")) if path.name not in listed]
    if paths:
        sealed = [describe_shard(path, manifest.identity, manifest.width) for path in paths]
        # Appended even if a number is lower: global rows of listed shards must not change.
        shards = (*manifest.shards, *sealed)
        manifest = replace(manifest, shards=shards, next_shard=next_shard_number(store))
        write_manifest(store, manifest)
    return manifest


def describe_shard(path: Path, identity: Identity, width: int) -> Shard:
    """Make the manifest entry of a sealed shard, after checking its content in full.

    Raises ``StoreError`` if the file is damaged, or not a shard of a store of this identity and
    width.
    """
    with open_hdf5(path) as file:
        vectors, keys = dataset(file, "vectors"), dataset(file, "keys")
        if (
            vectors.ndim != 2
            or vectors.shape[1] != width
            or keys.shape != (len(vectors), KEY_BYTES)
        ):
            raise StoreError(f"{path}: not a shard of this store; move it away")
        shard_of, job = shard_identity(file)
        if identity.differences(shard_of):
            raise StoreError(f"{path}: written under another identity; move it away")
        expected = file.attrs.get("checksum")  # format 1 had none
        if expected is not None and content_checksum(keys[:], vectors[:]) != expected:
            raise StoreError(f"{path}: its content is not what was sealed; move it away")
        rows = len(vectors)
    return Shard(path.name, rows, path.stat().st_size, file_checksum(path), job)


def open_manifest(store: Path, identity: Identity, width: int) -> Manifest:
    """Open a store for writing: read its manifest, or create the store if there is none.

    A committed transaction is finished first; the caller must hold the store's lock alone. Raises
    ``StoreError`` if the store has another identity or width.
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
    """Raise ``StoreError`` if a store was made with other weights, given by their sha256.

    For a check before the weights are loaded, when the rest of the identity is not yet known.
    """
    require_identity(store, manifest, replace(manifest.identity, weights=weights))


def require_identity(store: Path, manifest: Manifest, identity: Identity) -> None:
    """Raise ``StoreError``, naming the fields that differ, if a store has another identity."""
    differences = manifest.identity.differences(identity)
    if differences:
        raise StoreError(
            f"{store}: written under another identity ({'; '.join(differences)}); "
            "choose another store.dir, or restore the settings that the store was made with"
        )
