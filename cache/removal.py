"""Remove vectors and pairs from a store: unused vectors (gc), or pairs that a user named (delete).

Shards are never rewritten in place. The vectors that stay of a shard go into a new one under a new
number, the row indices of all pair tables are adjusted, and everything is committed as one
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from .files import file_sum
from .manifest import write_manifest
from .pairs import DELETED, NO_ROW, PairTable, read_pairs, table_names, write_pairs
from .reader import FeatureStore
from .schema import FileSum, Shard, StoreError, plan_path
from .transaction import Transaction
from .writer import describe_shard, next_shard_number, shard_path, write_shard


@dataclass(frozen=True)
class Removal:
    """A planned removal: what it takes from a store and what it leaves.

    ``gone`` is an (n,) mask of the store's vectors to remove. ``tables`` holds every pair table as
    it will be afterwards, its row indices still those of the store before. ``bytes`` counts the
    bytes of the removed vectors.
    """

    gone: np.ndarray
    tables: Mapping[str, PairTable]
    shards_removed: int
    shards_rewritten: int
    bytes: int

    @property
    def vectors(self) -> int:
        """Number of vectors to remove."""
        return int(self.gone.sum())


def used_rows(tables: Mapping[str, PairTable], rows: int) -> np.ndarray:
    """(rows,) mask of the vectors of a store that any pair of any table uses."""
    used = np.zeros(rows, bool)
    for table in tables.values():
        for indices in table.rows.values():
            used[indices[indices != NO_ROW]] = True
    return used


def plan_removal(store: FeatureStore, gone: np.ndarray, tables: Mapping[str, PairTable]) -> Removal:
    """Plan a removal; ``tables`` holds every pair table as it will be afterwards.

    ``gone`` is an (n,) mask of the vectors to remove.
    """
    removed = rewritten = 0
    for start, stop in _spans(store):
        count = int(gone[start:stop].sum())
        removed += stop > start and count == stop - start
        rewritten += 0 < count < stop - start
    row_bytes = store.width * store.dtype.itemsize
    return Removal(gone, tables, removed, rewritten, int(gone.sum()) * row_bytes)


def plan_garbage_collection(path: Path) -> Removal:
    """Plan the removal of all vectors that no pair table uses.

    Raises ``StoreError`` while a job is unfinished, because its vectors belong to no table yet, and
    if a table refers to other shards, because then its row indices do not tell what it uses.
    """
    _require_no_job(path)
    store, tables = FeatureStore(path), read_tables(path)
    for table in tables.values():
        store.require_layout(table.layout, table.name)
    return plan_removal(store, ~used_rows(tables, len(store)), tables)


def plan_pair_removal(path: Path, drops: Mapping[str, np.ndarray]) -> Removal:
    """Plan the removal of pairs, and of those of their vectors that no other pair uses.

    ``drops`` holds per table an (N,) mask of the pairs to remove. Raises ``StoreError`` as
    ``plan_garbage_collection`` does.
    """
    _require_no_job(path)
    store, before = FeatureStore(path), read_tables(path)
    after, dropped = {}, {}
    for name, table in before.items():
        store.require_layout(table.layout, name)
        after[name] = select_pairs(table, np.flatnonzero(~drops[name]))
        if drops[name].any():
            # Runs fingerprint this count, so that models trained with these pairs are outdated.
            deleted = table.account.get(DELETED, 0) + int(drops[name].sum())
            account = {**table.account, DELETED: deleted}
            after[name] = replace(after[name], account=account)
        dropped[name] = select_pairs(table, np.flatnonzero(drops[name]))
    gone = used_rows(dropped, len(store)) & ~used_rows(after, len(store))
    return plan_removal(store, gone, after)


def select_pairs(table: PairTable, indices: np.ndarray) -> PairTable:
    """Select pairs of a table by their (m,) indices; the result has them in that order."""
    return replace(
        table,
        rows={key: rows[indices] for key, rows in table.rows.items()},
        text={key: [column[index] for index in indices] for key, column in table.text.items()},
        source_row=table.source_row[indices],
        pool=table.pool[indices],
        margin=table.margin[indices],
        tokens={role: counts[indices] for role, counts in table.tokens.items()},
        ratings={name: ratings[indices] for name, ratings in table.ratings.items()},
    )


def apply_removal(path: Path, removal: Removal, texts: Mapping[str, str] | None = None) -> None:
    """Carry out a planned removal in one transaction.

    The caller must hold the store's lock alone, and must have held it since the plan was made.

    Args:
        path: Directory of the store.
        removal: What to remove.
        texts: New contents of other files of the store, by name relative to it.
    """
    store = FeatureStore(path)
    with Transaction(path) as transaction:
        directory = transaction.directory
        # 1. Write anew the shards that lose some of their vectors.
        shards, removed = _rewrite(store, removal.gone, directory)
        # 2. Old to new global rows: ``kept`` holds the old rows in their new order.
        kept = np.concatenate([rows for _, rows in shards] or [np.empty(0, np.int64)])
        new_rows = np.full(len(store), NO_ROW, np.int64)
        new_rows[kept] = np.arange(kept.size)
        listed = tuple(shard for shard, _ in shards)
        number = max(next_shard_number(path), next_shard_number(directory))
        after = replace(store.manifest, shards=listed, next_shard=number)
        # 3. Write every table anew, as all row indices may have moved.
        files: dict[str, tuple[FileSum, ...]] = dict(after.files)
        for name, table in removal.tables.items():
            rows = {key: _map_rows(indices, new_rows) for key, indices in table.rows.items()}
            file = write_pairs(directory, replace(table, rows=rows, layout=after.layout()))
            files[f"pairs/{name}.h5"] = (file_sum(file),)
        for name, text in (texts or {}).items():
            file = directory / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
            files[name] = (file_sum(file),)
        # 4. The manifest that lists all of this, then the commit.
        write_manifest(directory, replace(after, files=files))
        transaction.commit(removed)


def _rewrite(
    store: FeatureStore, gone: np.ndarray, directory: Path
) -> tuple[list[tuple[Shard, np.ndarray]], list[str]]:
    """Write into ``directory`` what stays of the shards that lose some of their vectors.

    Returns:
        The shards of the store afterwards, each with the global rows that its vectors had before
        (untouched shards first, then the new ones), and the names of the shard files to remove.
    """
    manifest, keys, number = store.manifest, store.keys(), next_shard_number(store.path)
    kept: list[tuple[Shard, np.ndarray]] = []
    new: list[tuple[Shard, np.ndarray]] = []
    removed = []
    for shard, (start, stop) in zip(manifest.shards, _spans(store), strict=True):
        rows = start + np.flatnonzero(~gone[start:stop])
        if rows.size == stop - start:
            kept.append((shard, rows))
            continue
        removed.append(f"shards/{shard.name}")
        if rows.size:
            path = shard_path(directory, number + len(new))
            write_shard(path, manifest.identity, shard.job, keys[rows], store.gather(rows))
            new.append((describe_shard(path, manifest.identity, manifest.width), rows))
    return [*kept, *new], removed


def _map_rows(indices: np.ndarray, new_rows: np.ndarray) -> np.ndarray:
    """Replace old global rows by new ones; ``NO_ROW`` stays."""
    mapped = np.full(indices.shape, NO_ROW, np.int64)
    present = indices != NO_ROW
    mapped[present] = new_rows[indices[present]]
    assert (mapped[present] != NO_ROW).all(), "a pair would lose a vector that it needs"
    return mapped


def read_tables(path: Path) -> dict[str, PairTable]:
    """Read every pair table of a store, by name."""
    return {name: read_pairs(path, name) for name in table_names(path)}


def _spans(store: FeatureStore) -> list[tuple[int, int]]:
    """First global row of each shard, and the row after its last."""
    ends = np.cumsum([0, *(shard.rows for shard in store.manifest.shards)]).tolist()
    return list(pairwise(ends))


def _require_no_job(path: Path) -> None:
    if plan_path(path).exists():
        raise StoreError(
            f"{path}: a job is unfinished, and its vectors would look unused; finish it with the "
            "same micro-rm embed first"
        )
