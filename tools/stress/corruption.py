"""Byte flips and truncations of every file: ``verify`` sees them, readers end with a message.

Readers run in children, because a file that is shorter than its map kills the process by SIGBUS.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .harness import Tally, World, attempt, explained

# Files whose bytes decide nothing, and why.
HARMLESS = {"writer.lock": "it only names who wrote last; the lock itself is the system's"}
# What a command prints to tell that it has found something.
FOUND = (1, 2)


def attack_bytes(world: World, flips: int, cuts: int, seed: int) -> Tally:
    """Hurt one file at a time, verify and read, and heal it again."""
    tally, chance = Tally("byte flips and truncations"), random.Random(seed)
    store = world.base / "hurt"
    run = Path(f"{store}-run")
    shutil.copytree(world.whole, store)
    if world.run.is_dir():
        shutil.copytree(world.run, run)
    places = [path for top in (store, run) for path in sorted(top.rglob("*")) if path.is_file()]
    places = [path for path in places if path.stat().st_size]
    for trial in range(flips + cuts):
        # Every kind of file in turn: there are far more shards than tables.
        kinds = sorted({kind_of(path) for path in places})
        kind = kinds[trial % len(kinds)]
        path = chance.choice([path for path in places if kind_of(path) == kind])
        whole = path.read_bytes()
        path.write_bytes(hurt(whole, chance, cut=trial >= flips))
        tally.trials += 1
        _judge(world, store, path, tally, "cut" if trial >= flips else "flip")
        path.write_bytes(whole)
        if run.is_dir():
            shutil.rmtree(run)
            shutil.copytree(world.run, run)
    shutil.rmtree(store)
    shutil.rmtree(run, ignore_errors=True)
    return tally


def kind_of(path: Path) -> str:
    """Shards are one kind, every other file is one of its own."""
    return "shards" if path.parent.name == "shards" else path.name


def hurt(whole: bytes, chance: random.Random, *, cut: bool) -> bytes:
    """One byte changed, or the end cut off."""
    place = chance.randrange(len(whole))
    if cut:
        return whole[:place]
    other = whole[place] ^ chance.randrange(1, 256)
    return whole[:place] + bytes([other]) + whole[place + 1 :]


def _judge(world: World, store: Path, path: Path, tally: Tally, what: str) -> None:
    name = f"{what} in {kind_of(path)}"
    top = store if store in path.parents else Path(f"{store}-run")
    verified = attempt(world.command(top, "verify"), world.base / "verify.log")
    if not verified.well_behaved:
        tally.problems.append(
            f"{name}: verify ended with {verified.status}: {verified.said[-500:]}"
        )
    elif verified.status in FOUND:
        tally.counts[f"{what}s detected"] += 1
    elif path.name in HARMLESS:
        tally.counts[f"{what}s harmless"] += 1
    else:
        tally.problems.append(f"{name}: not detected")
    every = readers(world, store)
    reader = sorted(every)[tally.trials % len(every)]
    read = attempt(every[reader], world.base / "read.log")
    tally.counts["reads that were refused" if read.status else "reads that went on"] += 1
    if not read.well_behaved:
        tally.problems.append(f"{name}: {reader} ended with {read.status}: {read.said[-500:]}")


def readers(world: World, store: Path) -> dict[str, Callable[[], Any]]:
    """Commands and parts of commands that read stores and runs."""
    found = {"inspect": world.command(store, "inspect"), "reading": everything(store)}
    if world.run.is_dir():
        found |= {"report": world.command(store, "report"), "learning": learning(world, store)}
    return found


def everything(store: Path) -> Callable[[], int]:
    """Read all vectors in three ways, and the pair table."""

    def read() -> int:
        import numpy as np

        from micro_rm.cache.native_head import read_native_head
        from micro_rm.cache.pairs import read_pairs
        from micro_rm.cache.reader import FeatureStore

        reader = FeatureStore(store)
        rows = np.arange(len(reader))
        reader.read(0, len(reader))
        reader.vectors(rows)
        reader.gather(rows[::-1])
        reader.keys()
        read_pairs(store, "rows")
        read_native_head(store)
        return 0

    return explained(read)


def learning(world: World, store: Path) -> Callable[[], int]:
    """Read what training and evaluation read, without fitting anything."""
    _, config = world.config(store, "train")

    def read() -> int:
        from micro_rm.heads.checkpoint import load_models
        from micro_rm.heads.stages import open_run_data

        bench = open_run_data(config)
        bench.problem(adapt=False)
        _ = bench.test_set
        load_models(Path(config.run.dir))
        return 0

    return explained(read)
