"""Names, types and identity of a store: what writer, reader and verifier agree on.

``<store>/manifest.json``          format version, identity, sealed shards with checksums
``<store>/shards/000000.h5``       ``vectors`` (n, d) and ``keys`` (n, 16); never rewritten
``<store>/pairs/<name>.h5``        one pair table: a row index per view and role, and labels
``<store>/quarantine/<name>.jsonl`` every refused row: row number, field, reason
``<store>/plan/``                  a job that is running or was stopped; the manifest lists its
                                   shards when all of them are sealed
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import xxhash

from .. import UserError

FORMAT_VERSION = 1
KEY_BYTES = 16
KEY_DTYPE = np.dtype(f"S{KEY_BYTES}")
# Physical type on disk per logical type: h5py would store bfloat16 as opaque bytes.
PHYSICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
}
LOGICAL = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def plan_path(store: Path) -> Path:
    """Where the plan of a store's running job lies."""
    return store / "plan"


# Fields of an identity that name the same bytes in other words: a path, a tag.
DESCRIPTIVE = ("backbone", "revision")


class StoreError(UserError):
    """A store cannot be used as asked; the message names the file and says what to do."""


@dataclass(frozen=True)
class Identity:
    """Everything that may change a vector. Batch size, device and attention kernel may not.

    ``backbone`` and ``revision`` are for people; ``weights`` is what counts.
    """

    backbone: str
    revision: str
    weights: str
    tokenizer: str
    template: str
    probe: str
    bos: str
    pooling: str
    layer: str
    dtype: str
    max_length: int

    def differences(self, other: Identity) -> list[str]:
        """Fields that differ, as ``field: here X, there Y``."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: the store has {mine[name]!r}, this run has {theirs[name]!r}"
            for name in mine
            if name not in DESCRIPTIVE and mine[name] != theirs[name]
        ]


@dataclass(frozen=True)
class Shard:
    """One sealed file of vectors, as the manifest lists it."""

    name: str
    rows: int
    bytes: int
    checksum: str
    job: str


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a store. Global row numbers run through the shards in order."""

    identity: Identity
    width: int
    shards: tuple[Shard, ...] = ()

    @property
    def rows(self) -> int:
        """Number of vectors in sealed shards."""
        return sum(shard.rows for shard in self.shards)


def sequence_key(token_ids: Sequence[int] | np.ndarray) -> bytes:
    """XXH3-128 of the token ids as little-endian int32: the address of a vector."""
    return xxhash.xxh3_128_digest(np.asarray(token_ids, dtype="<i4").tobytes())


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set of an HDF5 file; ``StoreError`` if there is none of that name."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{file.filename}: no data set {name!r}; run micro-rm verify")
    return found


def file_checksum(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(store: Path) -> Manifest:
    """The manifest of a store; raises ``StoreError`` if there is none or it cannot be used."""
    path = store / "manifest.json"
    if not path.is_file():
        raise StoreError(f"{store}: no store here (manifest.json is missing); run micro-rm embed")
    try:
        raw = json.loads(path.read_text("utf-8"))
        version = raw["format"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path}: format {version}, this version of micro-rm reads {FORMAT_VERSION}; "
                "use the version that wrote it, or embed into a new store.dir"
            )
        return Manifest(
            identity=Identity(**raw["identity"]),
            width=int(raw["width"]),
            shards=tuple(Shard(**shard) for shard in raw["shards"]),
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged manifest ({error}); restore it from a copy") from error


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically."""
    raw = {
        "format": FORMAT_VERSION,
        "identity": asdict(manifest.identity),
        "width": manifest.width,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    write_json(store / "manifest.json", raw)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, sync it and rename it into place."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", "utf-8")
    commit_file(temporary, path)


def commit_file(temporary: Path, final: Path) -> None:
    """Sync a finished file, give it its final name, and sync the directory entry."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
