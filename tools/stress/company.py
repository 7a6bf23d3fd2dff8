"""Two writers at once, and readers beside a writer: the store is right, nobody sees half of it."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from micro_rm.cache.pairs import read_pairs, table_names
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.verify import verify_store

from .harness import EXPLAINED, GOOD, Ended, Tally, World, contents, ended, start, write_rows

BUSY = "another process is writing here"


def attack_with_writers(world: World, rounds: int, seed: int) -> Tally:
    """Start two jobs on one store: the same, or other data under another or the same name."""
    tally, chance = Tally("two writers at once"), random.Random(seed)
    other = world.base / "other.jsonl"
    write_rows(other, 24, "sun")
    store = world.base / "shared"
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("same data", ()),
        ("other data", (f"--data.train={other}", "--data.name=other")),
        ("same name", (f"--data.train={other}",)),
    )
    for trial in range(rounds):
        said, more = kinds[trial % len(kinds)]
        tally.trials += 1
        first = start(world.command(store), world.base / "first.log")
        time.sleep(chance.uniform(0, 0.6))
        second = start(world.command(store, "embed", *more), world.base / "second.log")
        ends = [ended(first, world.base / "first.log"), ended(second, world.base / "second.log")]
        for end in ends:
            held = end.status == GOOD or (end.status == EXPLAINED and BUSY in end.said)
            tally.expect(held, f"{said}: a writer ended with {end.status}: {end.said[-500:]}")
            tally.counts[_how(end)] += 1
        tally.expect(any(end.status == GOOD for end in ends), f"{said}: neither writer finished")
        tally.problems += [f"{said}: {problem}" for problem in verify_store(store).problems]
        if said == "same data":
            same = contents(store) == contents(world.whole)
            tally.expect(same, f"{said}: the store differs from an undisturbed one")
        keys = FeatureStore(store).keys().tolist()
        tally.expect(len(keys) == len(set(keys)), f"{said}: sequences are stored twice")
        shutil.rmtree(store)
    return tally


def attack_with_readers(world: World, rounds: int, seed: int) -> Tally:
    """Read without pause while a store is made and then extended."""
    tally, chance = Tally("readers beside a writer"), random.Random(seed)
    other = world.base / "more.jsonl"
    write_rows(other, 24, "comet")
    store = world.base / "watched"
    known = world.base / "known"
    for _ in range(rounds):
        tally.trials += 1
        chance.random()
        first = start(world.command(store), world.base / "first.log")
        watcher = start(watching(store, world.whole, known), world.base / "watch.log")
        ends = [ended(first, world.base / "first.log")]
        more = (f"--data.train={other}", "--data.name=more")
        second = start(world.command(store, "embed", *more), world.base / "second.log")
        ends.append(ended(second, world.base / "second.log"))
        known.touch()
        seen = ended(watcher, world.base / "watch.log")
        known.unlink()
        for end in ends:
            tally.expect(end.status == GOOD, f"a writer failed: {end.said[-500:]}")
        tally.expect(seen.status == 0, f"a reader ended with {seen.status}: {seen.said[-700:]}")
        if seen.result is not None:
            for name, count in seen.result.items():
                tally.counts[name] += count
        tally.problems += verify_store(store).problems
        shutil.rmtree(store)
    return tally


def watching(store: Path, whole: Path, stop: Path) -> Callable[[], dict[str, int]]:
    """Read what there is until ``stop`` appears; fails on anything that is not whole."""

    def run() -> dict[str, int]:
        reader = FeatureStore(whole)
        right = dict(zip(reader.keys().tolist(), reader.read(0, len(reader)), strict=True))
        counts = {"looks": 0, "rows read": 0, "tables read": 0, "manifests seen": 0}
        sizes: set[int] = set()
        while not stop.exists():
            counts["looks"] += 1
            if (store / "manifest.json").is_file():
                _look(store, right, counts, sizes)
            time.sleep(0.01)
        counts["manifests seen"] = len(sizes)
        return counts

    return run


def _look(store: Path, right: dict[bytes, Any], counts: dict[str, int], sizes: set[int]) -> None:
    # The tables first: a table may only point to rows that the manifest had when it was written.
    tables = [read_pairs(store, name) for name in table_names(store)]
    found = FeatureStore(store)
    sizes.add(len(found))
    for key, vector in zip(found.keys().tolist(), found.read(0, len(found)), strict=True):
        assert key not in right or (vector == right[key]).all(), "a vector is not what it was"
    for table in tables:
        for rows in table.rows.values():
            assert rows.max(initial=-1) < len(found), "a table points behind the store"
    counts["rows read"] += len(found)
    counts["tables read"] += len(tables)


def _how(end: Ended) -> str:
    return {GOOD: "writers that finished", EXPLAINED: "writers that explained"}.get(
        end.status, "writers that crashed"
    )
