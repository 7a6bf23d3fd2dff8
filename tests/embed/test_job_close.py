"""The last worker lists the shards of a job and removes its plan: exactly one, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.lock import StoreLock
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.schema import StoreError
from micro_rm.embed import job as job_module
from micro_rm.embed.job import close_job
from micro_rm.embed.plan import Plan
from micro_rm.tests.embed.job_planner import Planner, at_work, enter, seal


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "POLL_SECONDS", 0.002)


def finished(store: Path, done: list[Any]) -> Callable[[Plan], None]:
    """A finish that notes what the manifest lists."""
    return lambda plan: done.append((plan.facts.job, read_manifest(store).rows))


def test_the_last_worker_lists_the_shards_and_removes_the_plan(tmp_path: Path) -> None:
    done: list[Any] = []
    with StoreLock(tmp_path) as lock:
        plan = enter(lock, Planner("job"))
        for shard in (1, 0):
            seal(tmp_path, plan, shard)
        assert close_job(lock, "job", finished(tmp_path, done))
    assert done == [("job", 2)]
    assert list(tmp_path.glob("plan*")) == []


def test_finishing_waits_for_those_who_are_still_at_work(tmp_path: Path) -> None:
    done: list[Any] = []
    with StoreLock(tmp_path) as lock, ThreadPoolExecutor(1) as pool:
        with at_work(tmp_path, "job") as plan:
            enter(lock, Planner("job"))
            for shard in (0, 1):
                seal(tmp_path, plan, shard)
            closing = pool.submit(close_job, lock, "job", finished(tmp_path, done))
            time.sleep(0.02)
            assert not closing.done()
            assert done == []
        assert closing.result(10)
    assert done == [("job", 2)]


def test_workers_that_finish_at_the_same_time_finish_once(tmp_path: Path) -> None:
    done: list[Any] = []
    workers = 5
    ready = threading.Barrier(workers)

    def work(number: int) -> bool:
        with StoreLock(tmp_path) as lock:
            plan = enter(lock, Planner("job"))
            if number < 2:
                seal(tmp_path, plan, number)
            ready.wait(10)
            return close_job(lock, "job", finished(tmp_path, done))

    with ThreadPoolExecutor(workers) as pool:
        results = [future.result(20) for future in [pool.submit(work, n) for n in range(workers)]]
    assert sorted(results) == [False] * (workers - 1) + [True]
    assert done == [("job", 2)]
    assert list(tmp_path.glob("plan*")) == []


def test_a_finish_that_fails_can_be_done_by_the_next_one(tmp_path: Path) -> None:
    done: list[Any] = []

    def fail(_plan: Plan) -> None:
        raise StoreError("disk full")

    with StoreLock(tmp_path) as lock:
        plan = enter(lock, Planner("job"))
        for shard in (0, 1):
            seal(tmp_path, plan, shard)
        with pytest.raises(StoreError, match="disk full"):
            close_job(lock, "job", fail)
    with StoreLock(tmp_path) as lock:
        assert enter(lock, Planner("job")).pending(tmp_path) == []
        assert close_job(lock, "job", finished(tmp_path, done))
    assert done == [("job", 2)]
