"""Appending vectors: a bounded buffer, a shard under a temporary name, the manifest last.

A process may die at any moment: what the manifest lists is whole, an unlisted but finished shard
is adopted by the next writer, an unfinished one is removed by it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from .reader import open_shard
from .schema import (
    KEY_BYTES,
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


class StoreWriter:
    """The one writer of a store; use it as a context manager, which seals what is buffered.

    ``job`` names the work that a shard belongs to, so that a resumed job can plan exactly as it
    did before. Vectors must be finite and arrive as ``(n, width)`` in the store's logical type.
    Without a ``lock`` the writer takes one for its own lifetime.
    """

    def __init__(
        self,
        store: Path,
        identity: Identity,
        width: int,
        *,
        job: str,
        shard_rows: int,
        seal_seconds: float,
        lock: StoreLock | None = None,
    ) -> None:
        self.store = store
        self.job = job
        self.shard_rows = shard_rows
        self.seal_seconds = seal_seconds
        (store / "shards").mkdir(parents=True, exist_ok=True)
        self._lock = lock or StoreLock(store)
        self._owns_lock = lock is None
        try:
            self.manifest = adopt_shards(store, _open_manifest(store, identity, width))
        except BaseException:
            self._release()
            raise
        self._buffer: list[tuple[Sequence[bytes], np.ndarray]] = []
        self._target: Path | None = None
        self._sealed_at = time.monotonic()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.seal()
        finally:
            self._release()

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Buffer the vectors of one batch; seals a shard when it is full or old enough.

        Raises ``StoreError`` for a wrong shape or type and for a vector that is not finite.
        """
        identity = self.manifest.identity
        expected = (len(keys), self.manifest.width)
        if vectors.shape != expected or vectors.dtype != LOGICAL[identity.dtype]:
            raise StoreError(
                f"{self.store}: expected vectors {expected} of {identity.dtype}, "
                f"found {vectors.shape} of {vectors.dtype}"
            )
        if not np.isfinite(vectors.astype(np.float32)).all():
            raise StoreError(
                f"{self.store}: the backbone {identity.backbone} returned NaN or infinity; "
                "try backbone.dtype=float32"
            )
        self._buffer.append((keys, vectors))
        old = time.monotonic() - self._sealed_at > self.seal_seconds
        if old or sum(len(batch) for batch, _ in self._buffer) >= self.shard_rows:
            self.seal()

    def seal(self) -> None:
        """Write the buffered vectors as one shard and list it in the manifest.

        Every step can be repeated: if an interrupt arrives in the middle, the seal on leaving the
        context goes on where this one stopped and writes nothing twice.
        """
        if self._buffer and self._target is None:
            numbers = [int(path.stem) for path in (self.store / "shards").glob("*.h5")]
            self._target = self.store / "shards" / f"{max(numbers, default=-1) + 1:06d}.h5"
        if self._target is not None:
            if not self._target.exists():
                self._write_shard(self._target)
            self._buffer = []
            self.manifest = list_shard(self.store, self.manifest, self._target)
            self._target = None
        self._sealed_at = time.monotonic()

    def _release(self) -> None:
        if self._owns_lock:
            self._lock.release()

    def _write_shard(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".tmp")
        identity = self.manifest.identity
        joined = b"".join(key for keys, _ in self._buffer for key in keys)
        keys = np.frombuffer(joined, np.uint8).reshape(-1, KEY_BYTES)
        vectors = np.concatenate([vectors for _, vectors in self._buffer])
        with h5py.File(temporary, "w", alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
            physical = vectors.view(PHYSICAL[identity.dtype])
            file.create_dataset("vectors", data=physical, track_times=False)
            file.create_dataset("keys", data=keys, track_times=False)
            file.attrs["logical_dtype"] = identity.dtype
            file.attrs["identity"] = json.dumps(asdict(identity))
            file.attrs["job"] = self.job
        commit_file(temporary, path)


def recover_store(store: Path) -> None:
    """Bring a store that a killed process left behind in order; the caller holds its lock.

    Finished shards that the manifest does not list are adopted, unfinished files removed.
    """
    if (store / "manifest.json").is_file():
        adopt_shards(store, read_manifest(store))


def adopt_shards(store: Path, manifest: Manifest) -> Manifest:
    """List shards whose writer died between rename and manifest; drop unfinished files."""
    for unfinished in store.glob("**/*.tmp"):
        unfinished.unlink()
    listed = {shard.name for shard in manifest.shards}
    for path in sorted((store / "shards").glob("*.h5")):
        if path.name not in listed:
            manifest = list_shard(store, manifest, path)
    return manifest


def list_shard(store: Path, manifest: Manifest, path: Path) -> Manifest:
    """The manifest with one more sealed shard, written; refuses a shard of another store."""
    if any(shard.name == path.name for shard in manifest.shards):
        return manifest
    with open_shard(path) as file:
        rows, width = dataset(file, "vectors").shape
        if width != manifest.width or dataset(file, "keys").shape != (rows, KEY_BYTES):
            raise StoreError(f"{path}: not a shard of this store; move it away")
        identity = Identity(**json.loads(str(file.attrs["identity"])))
        if manifest.identity.differences(identity):
            raise StoreError(f"{path}: written under another identity; move it away")
        job = str(file.attrs["job"])
    shard = Shard(path.name, rows, path.stat().st_size, file_checksum(path), job)
    manifest = replace(manifest, shards=(*manifest.shards, shard))
    write_manifest(store, manifest)
    return manifest


def _open_manifest(store: Path, identity: Identity, width: int) -> Manifest:
    if not (store / "manifest.json").is_file():
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


class StoreLock:
    """The right to write to a store; the system takes it back however a process ends.

    Raises ``StoreError`` while another process holds it.
    """

    def __init__(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(store / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise StoreError(
                f"{store}: another process is writing here; wait for it, or choose another "
                "store.dir"
            ) from error

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()
