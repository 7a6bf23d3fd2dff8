"""The rows of one user or pair deleted from a store, and the proof that they are gone."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .pairs import PairTable
from .reader import FeatureStore, KeyIndex
from .removal import Removal, apply_removal, plan_pair_removal, read_tables
from .schema import StoreError

# A shorter text is found in any file by chance; the tables' own columns are searched for it.
SHORTEST = 12
TEXTS = ("pair_id", "user", "prompt", "chosen", "rejected", "context")  # names first


@dataclass(frozen=True)
class Deletion:
    """What is to be deleted: pairs per table, their removal, quarantine without them."""

    pairs: Mapping[str, int]
    removal: Removal
    quarantine: Mapping[str, str]
    refused: int
    texts: Sequence[str]
    names: Mapping[str, Sequence[str]]
    keys: np.ndarray


@dataclass
class Proof:
    """What was searched after a deletion, and everything that was found (nothing, if it worked)."""

    files: int = 0
    texts: int = 0
    keys: int = 0
    found: list[str] = field(default_factory=list)


def plan_deletion(path: Path, users: Sequence[str], pairs: Sequence[str]) -> Deletion:
    """What deleting some users' pairs and some pairs takes.

    Raises ``StoreError`` if the store has none of them.
    """
    tables = read_tables(path)
    drops = {name: _matching(table, users, pairs) for name, table in tables.items()}
    counts = {name: int(drop.sum()) for name, drop in drops.items() if drop.any()}
    quarantine, refused = _quarantine_without(path, [*users, *pairs])
    if not counts and not refused:
        raise StoreError(
            f"{path}: no pair and no refused row of user {list(users)} or pair {list(pairs)} in "
            f"{', '.join(tables) or 'any table'}; micro-rm inspect lists the tables"
        )
    removal = plan_pair_removal(path, drops)
    gone, stay = set[str](), set[str]()
    for name, table in tables.items():
        for column in TEXTS:
            for text, drop in zip(table.text[column], drops[name].tolist(), strict=True):
                (gone if drop else stay).add(text)
    texts = sorted(text for text in gone - stay if len(text.encode()) >= SHORTEST)
    keys = FeatureStore(path).keys()[removal.gone]
    names = {"user": list(users), "pair_id": list(pairs)}
    return Deletion(counts, removal, quarantine, refused, texts, names, keys)


def apply_deletion(path: Path, plan: Deletion) -> Proof:
    """Delete, then search what is left; the caller holds the store alone."""
    apply_removal(path, plan.removal, plan.quarantine)
    return prove_deletion(path, plan)


def prove_deletion(path: Path, plan: Deletion) -> Proof:
    """Search every table and quarantine file for the deleted texts, and shards for the keys."""
    proof = Proof(texts=len(plan.texts), keys=len(plan.keys))
    for name, table in read_tables(path).items():
        for column, gone in plan.names.items():
            left = set(gone) & set(table.text[column])
            proof.found += [f"{name}: {column} {value!r}" for value in sorted(left)]
    for folder in ("pairs", "quarantine"):
        for file in sorted((path / folder).glob("*")):
            proof.files += 1
            proof.found += [f"{file}: {text[:40]!r}" for text in _found_in(file, plan.texts)]
    store = FeatureStore(path)
    proof.files += len(store.manifest.shards)
    left = int((KeyIndex(store.keys()).rows(plan.keys) >= 0).sum())
    if left:
        proof.found.append(f"{path}: {left} vectors are still stored")
    return proof


def _matching(table: PairTable, users: Sequence[str], pairs: Sequence[str]) -> np.ndarray:
    """(N,) mask of the pairs of some users or with some ids."""
    of_user = np.isin(np.array(table.text["user"], object), list(users))
    with_id = np.isin(np.array(table.text["pair_id"], object), list(pairs))
    return of_user | with_id


def _quarantine_without(path: Path, names: Sequence[str]) -> tuple[dict[str, str], int]:
    """Quarantine files that mention a name, without those lines; and how many lines these are."""
    changed, dropped = {}, 0
    for file in sorted((path / "quarantine").glob("*.jsonl")):
        lines = file.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not _mentions(json.loads(line), set(names))]
        if len(kept) < len(lines):
            changed[f"quarantine/{file.name}"] = "".join(kept)
            dropped += len(lines) - len(kept)
    return changed, dropped


def _mentions(record: Any, names: set[str]) -> bool:
    """Whether a refused row has a name in any column but its texts; a broken line, anywhere."""
    raw = record.get("raw") if isinstance(record, dict) else None
    if isinstance(raw, str):
        return any(json.dumps(name, ensure_ascii=False) in raw for name in names)
    columns = raw.items() if isinstance(raw, dict) else ()
    return any(value in names for key, value in columns if _is_name(key, value))


def _is_name(key: str, value: Any) -> bool:
    return isinstance(value, str) and key not in TEXTS[2:]


def _found_in(file: Path, texts: Sequence[str]) -> list[str]:
    if not file.stat().st_size:
        return []
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [text for text in texts if data.find(text.encode()) >= 0]
