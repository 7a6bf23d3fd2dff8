"""Delete the rows of users or pairs from a store, then search it for anything left of them."""

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

# Bytes. Shorter texts occur in any file by chance, so the raw files are not searched for them.
SHORTEST = 12
# Columns that may hold personal data; the first two hold names, the others free text.
COLUMNS = ("pair_id", "user", "prompt", "chosen", "rejected", "context")
FREE_TEXT = COLUMNS[2:]


@dataclass(frozen=True)
class Deletion:
    """A planned deletion.

    Attributes:
        pairs: Number of pairs to delete per table; tables without any are left out.
        removal: The removal of these pairs and of their vectors.
        quarantine: New contents of the quarantine files that lose lines, by name.
        refused_rows: Number of quarantine lines to delete.
        texts: Texts that must not occur in any file afterwards.
        names: Per column, the names that must not occur in any table afterwards.
        keys: (m,) keys of the vectors to delete.
    """

    pairs: Mapping[str, int]
    removal: Removal
    quarantine: Mapping[str, str]
    refused_rows: int
    texts: Sequence[str]
    names: Mapping[str, Sequence[str]]
    keys: np.ndarray


@dataclass
class Proof:
    """Result of the search after a deletion.

    Counts of the files searched and of the texts and keys searched for, and what was ``found`` all
    the same: nothing, if the deletion worked.
    """

    files: int = 0
    texts: int = 0
    keys: int = 0
    found: list[str] = field(default_factory=list)


def plan_deletion(path: Path, users: Sequence[str], pairs: Sequence[str]) -> Deletion:
    """Plan the deletion of all pairs and quarantine lines of some users, and of some pairs.

    Args:
        path: Directory of the store.
        users: Values of ``user``.
        pairs: Values of ``pair_id``.

    Raises:
        StoreError: The store has no row of any of them, or a job is unfinished.
    """
    tables = read_tables(path)
    drops = {name: _matching(table, users, pairs) for name, table in tables.items()}
    counts = {name: int(drop.sum()) for name, drop in drops.items() if drop.any()}
    quarantine, refused_rows = _quarantine_without(path, [*users, *pairs])
    if not counts and not refused_rows:
        raise StoreError(
            f"{path}: no pair and no refused row of user {list(users)} or pair {list(pairs)} in "
            f"{', '.join(tables) or 'any table'}; micro-rm inspect lists the tables"
        )
    removal = plan_pair_removal(path, drops)
    # A text that another pair also has, such as a shared prompt, stays.
    deleted, kept = set[str](), set[str]()
    for name, table in tables.items():
        for column in COLUMNS:
            for text, drop in zip(table.text[column], drops[name].tolist(), strict=True):
                (deleted if drop else kept).add(text)
    texts = sorted(text for text in deleted - kept if len(text.encode()) >= SHORTEST)
    keys = FeatureStore(path).keys()[removal.gone]
    names = {"user": list(users), "pair_id": list(pairs)}
    return Deletion(counts, removal, quarantine, refused_rows, texts, names, keys)


def apply_deletion(path: Path, plan: Deletion) -> Proof:
    """Carry out a planned deletion, then search what is left.

    The caller must hold the store's lock alone, and must have held it since the plan was made.
    """
    apply_removal(path, plan.removal, plan.quarantine)
    return prove_deletion(path, plan)


def prove_deletion(path: Path, plan: Deletion) -> Proof:
    """Search a store for what a deletion should have removed.

    Pair tables and quarantine files are searched for the texts byte by byte, the tables' columns
    for the names, and the shards for the keys.
    """
    proof = Proof(texts=len(plan.texts), keys=len(plan.keys))
    for name, table in read_tables(path).items():
        for column, names in plan.names.items():
            left = set(names) & set(table.text[column])
            proof.found += [f"{name}: {column} {value!r}" for value in sorted(left)]
    for folder in ("pairs", "quarantine"):
        for file in sorted((path / folder).glob("*")):
            proof.files += 1
            proof.found += [f"{file}: {text[:40]!r}" for text in _occurring(file, plan.texts)]
    store = FeatureStore(path)
    proof.files += len(store.manifest.shards)
    left = int((KeyIndex(store.keys()).rows(plan.keys) >= 0).sum())
    if left:
        proof.found.append(f"{path}: {left} vectors are still stored")
    return proof


def _matching(table: PairTable, users: Sequence[str], pairs: Sequence[str]) -> np.ndarray:
    """(N,) mask of the pairs that belong to one of the users or have one of the ids."""
    of_user = np.isin(np.array(table.text["user"], object), list(users))
    with_id = np.isin(np.array(table.text["pair_id"], object), list(pairs))
    return of_user | with_id


def _quarantine_without(path: Path, names: Sequence[str]) -> tuple[dict[str, str], int]:
    """Quarantine files with the lines that mention a name taken out, and the number of lines."""
    changed, dropped = {}, 0
    for file in sorted((path / "quarantine").glob("*.jsonl")):
        lines = file.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not _mentions(json.loads(line), set(names))]
        if len(kept) < len(lines):
            changed[f"quarantine/{file.name}"] = "".join(kept)
            dropped += len(lines) - len(kept)
    return changed, dropped


def _mentions(record: Any, names: set[str]) -> bool:
    """Whether a quarantined row holds a name in a column other than free text.

    A row that was not JSON has no columns: there the name counts anywhere, in quotes.
    """
    raw = record.get("raw") if isinstance(record, dict) else None
    if isinstance(raw, str):
        return any(json.dumps(name, ensure_ascii=False) in raw for name in names)
    columns = raw.items() if isinstance(raw, dict) else ()
    return any(
        isinstance(value, str) and value in names for key, value in columns if key not in FREE_TEXT
    )


def _occurring(file: Path, texts: Sequence[str]) -> list[str]:
    """The texts that occur in the bytes of a file."""
    if not file.stat().st_size:  # an empty file cannot be mapped
        return []
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [text for text in texts if data.find(text.encode()) >= 0]
