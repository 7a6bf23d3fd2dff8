"""A planner of small jobs that counts its calls, and workers that join them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from micro_rm.cache.lock import StoreLock
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.schema import KEY_DTYPE, Identity
from micro_rm.cache.writer import next_shard_number, shard_path, write_shard
from micro_rm.embed.job import open_job
from micro_rm.embed.plan import Plan, PlanFacts, write_plan

IDENTITY = Identity("m", "main", "w", "t", "c", "p", "auto", "last", "last", "float32", 64)
WIDTH = 3


@dataclass
class Planner:
    """Plans a job of two shards with one sequence each; counts how often it was asked to."""

    job: str
    calls: list[Path] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)  # rows in the manifest when it was asked
    error: BaseException | None = None
    wait_for: threading.Event | None = None

    def __call__(self, directory: Path) -> Plan:
        assert directory.is_dir() and not list(directory.iterdir())
        self.calls.append(directory)
        self.listed.append(read_manifest(directory.parent).rows)
        if self.wait_for is not None:
            assert self.wait_for.wait(10)
        if self.error is not None:
            (directory / "half").write_text("done")
            raise self.error
        facts = PlanFacts(
            job=self.job,
            name="rows",
            pairs=1,
            sequences=2,
            stored=0,
            tokens=2,
            separate_tokens=2,
            bins=2,
            bin_tokens=8,
            shards=2,
            first_shard=next_shard_number(directory.parent),
            shortened=0,
            sharing=True,
            width=WIDTH,
        )
        keys = np.array([f"{self.job} {index}".ljust(16).encode() for index in range(2)], KEY_DTYPE)
        write_plan(directory, facts, {"keys": keys}, {}, {})
        return Plan(directory)


def enter(lock: StoreLock, planner: Planner) -> Plan:
    return open_job(lock, IDENTITY, planner.job, WIDTH, planner)


def seal(store: Path, plan: Plan, shard: int) -> None:
    path = shard_path(store, plan.facts.first_shard + shard)
    vectors = np.full((1, WIDTH), shard, np.float32)
    write_shard(path, IDENTITY, plan.facts.job, plan.keys[shard : shard + 1], vectors)


@contextmanager
def at_work(store: Path, job: str) -> Iterator[Plan]:
    """Another worker, between its plan and its last shard."""
    with StoreLock(store) as lock:
        yield enter(lock, Planner(job))


def in_thread(pool: ThreadPoolExecutor, store: Path, planner: Planner) -> Future[Plan]:
    """A process's share of ``open_job`` in a thread: a lock belongs to an open file."""

    def work() -> Plan:
        with StoreLock(store) as lock:
            return enter(lock, planner)

    return pool.submit(work)
