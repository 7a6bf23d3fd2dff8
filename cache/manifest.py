"""Read and write ``manifest.json``, the table of contents of a store, without trusting it.

Format 2 lists every file of a store with its size and checksum, and holds a checksum of itself.
Format 1 lists shards only; it can be read, and the next writer replaces it by format 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import xxhash

from ..common.files import write_json
from ..common.version import __version__
from .schema import LOGICAL, FileSum, Identity, Manifest, Shard, StoreError, transaction_path

FILE = "manifest.json"
FORMAT = 2
READABLE = (1, 2)
NEEDS = "0.2.0"  # the first version of micro-rm that reads FORMAT
# The names that a manifest may list; none of them can lead out of the store.
SHARD_NAME = re.compile(r"[0-9]{6,12}\.h5")
FILE_NAME = re.compile(r"(pairs/[\w-][\w.-]*\.h5|quarantine/[\w-][\w.-]*\.jsonl|native_head\.h5)")
CHECKSUM = re.compile(r"[0-9a-f]{32}")
MOST_ROWS = 1 << 48  # bound on counts and sizes, so that their sums fit in int64


def read_manifest(store: Path) -> Manifest:
    """Read and check the manifest of a store.

    Raises:
        StoreError: There is no manifest, it is damaged, a newer version of micro-rm wrote it, or a
            transaction was interrupted after its commit.
    """
    path = store / FILE
    if transaction_path(store).exists():
        raise StoreError(
            f"{store}: a change of this store (gc or delete) was interrupted; "
            f"micro-rm verify {store} finishes it"
        )
    if not path.is_file():
        raise StoreError(
            f"{store}: no store here ({FILE} is missing); run micro-rm embed, or, if there are "
            f"shards, micro-rm verify {store} --rebuild"
        )
    remedy = f"restore it from a copy, or micro-rm verify {store} --rebuild makes it anew"
    try:
        raw = json.loads(path.read_text("utf-8"))
        _require_format(path, raw)
        return parse_manifest(raw)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StoreError(f"{path}: damaged manifest ({reason}); {remedy}") from error


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Replace the manifest of a store atomically, in the newest format."""
    raw: dict[str, Any] = {
        "format": FORMAT,
        "needs": NEEDS,
        "identity": asdict(manifest.identity),
        "width": manifest.width,
        "next_shard": manifest.next_shard,
        "shards": [asdict(shard) for shard in manifest.shards],
        "files": {
            name: [asdict(entry) for entry in sums] for name, sums in sorted(manifest.files.items())
        },
    }
    write_json(store / FILE, raw | {"checksum": checksum_of(raw)})


def checksum_of(raw: Mapping[str, Any]) -> str:
    """XXH3-128 of a JSON object without its ``checksum`` key, in a canonical spelling."""
    content = {key: value for key, value in raw.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return xxhash.xxh3_128_hexdigest(text.encode())


def parse_manifest(raw: dict[str, Any]) -> Manifest:
    """Parse the JSON value of a manifest.

    Raises ``ValueError``, or ``KeyError`` for a missing key, if it is not a valid manifest.
    """
    version = raw["format"]
    if version > 1 and raw["checksum"] != checksum_of(raw):
        raise ValueError("its checksum is not that of its content")
    shards = tuple(_parse_shard(shard) for shard in _list(raw["shards"], "shards"))
    names = [shard.name for shard in shards]
    _check(len(set(names)) == len(names), "shards", "each listed once", names)
    _check(sum(s.rows for s in shards) < MOST_ROWS, "shards", f"below {MOST_ROWS} rows", "more")
    above = max((int(name.removesuffix(".h5")) + 1 for name in names), default=0)
    return Manifest(
        identity=parse_identity(raw["identity"]),
        width=_count(raw["width"], "width", least=1),
        shards=shards,
        files=_parse_files(raw["files"]) if version > 1 else {},
        next_shard=max(above, _count(raw["next_shard"], "next_shard")) if version > 1 else above,
        format=version,
    )


def _require_format(path: Path, raw: Any) -> None:
    """Raise ``StoreError`` for a format newer than this version, ``ValueError`` for nonsense."""
    _check(isinstance(raw, dict), "the manifest", "a JSON object", raw)
    version = raw["format"]
    if type(version) is int and version > FORMAT:
        needed = raw.get("needs")
        wanted = f"micro-rm {needed}" if isinstance(needed, str) else "a newer micro-rm"
        raise StoreError(
            f"{path}: format {version} needs {wanted[:40]} or newer; this is {__version__}, which "
            f"reads formats up to {FORMAT}; upgrade micro-rm, or embed into another store.dir"
        )
    _check(version in READABLE and type(version) is int, "format", f"one of {READABLE}", version)


def parse_identity(raw: Any) -> Identity:
    """Parse the JSON value of an identity; ``ValueError`` if a field or its type is wrong."""
    _check(isinstance(raw, dict), "identity", "a JSON object", raw)
    expected = {field.name for field in fields(Identity)}
    _check(set(raw) == expected, "identity", f"the fields {sorted(expected)}", sorted(raw))
    for name, value in raw.items():
        kind = int if name == "max_length" else str
        _check(type(value) is kind, f"identity.{name}", kind.__name__, value)
    _check(raw["dtype"] in LOGICAL, "identity.dtype", f"one of {sorted(LOGICAL)}", raw["dtype"])
    return Identity(**raw)


def _parse_shard(raw: Any) -> Shard:
    _check(isinstance(raw, dict), "a shard", "a JSON object", raw)
    name, job = raw["name"], raw["job"]
    _check(_matches(SHARD_NAME, name), "a shard's name", "a number and .h5", name)
    _check(isinstance(job, str), f"the job of {name}", "text", job)
    file = _parse_sum(raw, name)
    return Shard(name, _count(raw["rows"], f"the rows of {name}"), file.bytes, file.checksum, job)


def _parse_files(raw: Any) -> dict[str, tuple[FileSum, ...]]:
    _check(isinstance(raw, dict), "files", "a JSON object", raw)
    files = {}
    for name, sums in raw.items():
        _check(_matches(FILE_NAME, name), "a file's name", "a table, quarantine or head", name)
        files[name] = tuple(_parse_sum(entry, name) for entry in _list(sums, name))
    return files


def _parse_sum(raw: Any, name: str) -> FileSum:
    _check(isinstance(raw, dict), f"the entry of {name}", "a JSON object", raw)
    checksum = raw["checksum"]
    _check(_matches(CHECKSUM, checksum), f"the checksum of {name}", "32 hex digits", checksum)
    return FileSum(_count(raw["bytes"], f"the bytes of {name}"), checksum)


def _list(value: Any, name: str) -> list[Any]:
    _check(isinstance(value, list), name, "a list", value)
    return value


def _count(value: Any, name: str, least: int = 0) -> int:
    _check(type(value) is int and least <= value < MOST_ROWS, name, f"{least} or more", value)
    return value


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check(holds: bool, what: str, expected: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{what}: expected {expected}, found {str(found)[:80]!r}")
