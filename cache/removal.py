"""Taking vectors and pairs out of a store: what nothing uses (gc), and what somebody asked for.

Shards are never rewritten in place: what stays of a shard becomes a new one with a number of its
own, the row numbers of every pair table follow, and all of it happens in one change.
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
    """What leaves a store: a mask of its vectors, and pair tables with what stays of them."""

    gone: np.ndarray
    tables: Mapping[str, PairTable]
    shards_removed: int
    shards_rewritten: int
    bytes: int

    @property
    def vectors(self) -> int:
        """How many vectors leave."""
        return int(self.gone.sum())


def used_rows(tables: Mapping[str, PairTable], rows: int) -> np.ndarray:
    """(rows,) mask of the vectors that some pair of some table needs."""
    used = np.zeros(rows, bool)
    for table in tables.values():
        for places in table.rows.values():
            used[places[places != NO_ROW]] = True
    return used


def plan_removal(store: FeatureStore, gone: np.ndarray, tables: Mapping[str, PairTable]) -> Removal:
    """What removing some vectors takes; ``tables`` are all of the store, as they shall be."""
    removed = rewritten = 0
    for start, stop in _spans(store):
        leaving = int(gone[start:stop].sum())
        removed += stop > start and leaving == stop - start
        rewritten += 0 < leaving < stop - start
    row_bytes = store.width * store.dtype.itemsize
    return Removal(gone, tables, removed, rewritten, int(gone.sum()) * row_bytes)


def plan_garbage_collection(path: Path) -> Removal:
    """The vectors of a store that no pair table uses.

    Raises ``StoreError`` while a job is unfinished: its table is not there yet.
    """
    _require_quiet(path)
    store, tables = FeatureStore(path), read_tables(path)
    for table in tables.values():
        store.require_layout(table.layout, table.name)
    return plan_removal(store, ~used_rows(tables, len(store)), tables)


def plan_pair_removal(path: Path, drops: Mapping[str, np.ndarray]) -> Removal:
    """Some pairs (a mask per table), and the vectors of theirs that no other pair needs.

    Raises ``StoreError`` while a job is unfinished.
    """
    _require_quiet(path)
    store, before = FeatureStore(path), read_tables(path)
    after, leaving = {}, {}
    for name, table in before.items():
        store.require_layout(table.layout, name)
        after[name] = select_pairs(table, np.flatnonzero(~drops[name]))
        if drops[name].any():
            # What was learnt from the table with them is outdated (see ``read_deleted``).
            deleted = table.account.get(DELETED, 0) + int(drops[name].sum())
            account = {**table.account, DELETED: deleted}
            after[name] = replace(after[name], account=account)
        leaving[name] = select_pairs(table, np.flatnonzero(drops[name]))
    gone = used_rows(leaving, len(store)) & ~used_rows(after, len(store))
    return plan_removal(store, gone, after)


def select_pairs(table: PairTable, places: np.ndarray) -> PairTable:
    """A pair table with some of its pairs, in the order given."""
    return replace(
        table,
        rows={key: rows[places] for key, rows in table.rows.items()},
        text={key: [column[place] for place in places] for key, column in table.text.items()},
        source_row=table.source_row[places],
        pool=table.pool[places],
        margin=table.margin[places],
        tokens={role: counts[places] for role, counts in table.tokens.items()},
        ratings={name: ratings[places] for name, ratings in table.ratings.items()},
    )


def apply_removal(path: Path, removal: Removal, texts: Mapping[str, str] | None = None) -> None:
    """Carry out a removal; the caller holds the store alone and has adopted every shard.

    ``texts`` replaces other files of the store, by name.
    """
    store = FeatureStore(path)
    with Transaction(path) as change:
        shards, removed = _rewrite(store, removal.gone, change.directory)
        stayed = np.concatenate([rows for _, rows in shards] or [np.empty(0, np.int64)])
        new_rows = np.full(len(store), NO_ROW, np.int64)
        new_rows[stayed] = np.arange(stayed.size)
        listed = tuple(shard for shard, _ in shards)
        number = max(next_shard_number(path), next_shard_number(change.directory))
        after = replace(store.manifest, shards=listed, next_shard=number)
        files: dict[str, tuple[FileSum, ...]] = dict(after.files)
        for name, table in removal.tables.items():
            rows = {key: _moved(places, new_rows) for key, places in table.rows.items()}
            made = write_pairs(change.directory, replace(table, rows=rows, layout=after.layout()))
            files[f"pairs/{name}.h5"] = (file_sum(made),)
        for name, text in (texts or {}).items():
            made = change.directory / name
            made.parent.mkdir(exist_ok=True)
            made.write_text(text, "utf-8")
            files[name] = (file_sum(made),)
        write_manifest(change.directory, replace(after, files=files))
        change.commit(removed)


def _rewrite(
    store: FeatureStore, gone: np.ndarray, directory: Path
) -> tuple[list[tuple[Shard, np.ndarray]], list[str]]:
    """The shards that there will be, each with its rows as they were, and the files that go.

    Shards that lose rows are written anew into a directory, behind those that keep all.
    """
    manifest, keys, number = store.manifest, store.keys(), next_shard_number(store.path)
    kept: list[tuple[Shard, np.ndarray]] = []
    made: list[tuple[Shard, np.ndarray]] = []
    removed = []
    for shard, (start, stop) in zip(manifest.shards, _spans(store), strict=True):
        staying = start + np.flatnonzero(~gone[start:stop])
        if staying.size == stop - start:
            kept.append((shard, staying))
            continue
        removed.append(f"shards/{shard.name}")
        if staying.size:
            new = shard_path(directory, number + len(made))
            vectors = store.gather(staying)
            write_shard(new, manifest.identity, shard.job, keys[staying], vectors)
            made.append((describe_shard(new, manifest.identity, manifest.width), staying))
    return [*kept, *made], removed


def _moved(places: np.ndarray, new_rows: np.ndarray) -> np.ndarray:
    moved = np.full(places.shape, NO_ROW, np.int64)
    some = places != NO_ROW
    moved[some] = new_rows[places[some]]
    assert (moved[some] != NO_ROW).all(), "a pair would lose a vector that it needs"
    return moved


def read_tables(path: Path) -> dict[str, PairTable]:
    """Every pair table of a store, by name."""
    return {name: read_pairs(path, name) for name in table_names(path)}


def _spans(store: FeatureStore) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *(shard.rows for shard in store.manifest.shards)]).tolist()
    return list(pairwise(ends))


def _require_quiet(path: Path) -> None:
    if plan_path(path).exists():
        raise StoreError(
            f"{path}: a job is unfinished, and its vectors would look unused; finish it with the "
            "same micro-rm embed first"
        )
