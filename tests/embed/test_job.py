"""Who plans, who joins and who is turned away: exactly one plans, whatever happens."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from micro_rm.cache.lock import StoreLock
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.schema import Identity, StoreError, plan_path
from micro_rm.cache.writer import shard_path
from micro_rm.embed import job as job_module
from micro_rm.embed.job import open_job
from micro_rm.embed.plan import find_plan
from micro_rm.tests.embed.job_planner import (
    IDENTITY,
    WIDTH,
    Planner,
    at_work,
    enter,
    in_thread,
    seal,
)


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "POLL_SECONDS", 0.002)


def test_the_first_worker_plans_in_a_new_store(tmp_path: Path) -> None:
    planner = Planner("job")
    with StoreLock(tmp_path / "store") as lock:
        plan = enter(lock, planner)
        assert plan.directory == plan_path(tmp_path / "store")
        assert planner.calls[0].parent == tmp_path / "store"
        assert read_manifest(tmp_path / "store").width == WIDTH
        assert lock.announced() == "job"
    names = {path.name for path in (tmp_path / "store").iterdir()}
    assert names == {"manifest.json", "plan", "shards", "writer.lock"}


def test_a_second_worker_joins_the_plan_of_the_first(tmp_path: Path) -> None:
    second = Planner("job")
    with at_work(tmp_path, "job") as plan, StoreLock(tmp_path) as lock:
        joined = enter(lock, second)
    assert second.calls == []
    assert joined.facts == plan.facts


def test_a_worker_waits_for_the_plan_of_its_job(tmp_path: Path) -> None:
    planned = threading.Event()
    first, second = Planner("job", wait_for=planned), Planner("job")
    with ThreadPoolExecutor(2) as pool:
        one = in_thread(pool, tmp_path, first)
        while not first.calls:
            time.sleep(0.001)
        other = in_thread(pool, tmp_path, second)
        time.sleep(0.02)
        assert not other.done()
        planned.set()
        assert one.result(10).facts == other.result(10).facts
    assert (len(first.calls), second.calls) == (1, [])


def test_another_job_is_turned_away_while_one_is_at_work(tmp_path: Path) -> None:
    other = Planner("other")
    with at_work(tmp_path, "job"), StoreLock(tmp_path) as lock:
        with pytest.raises(StoreError, match="another process is writing here"):
            enter(lock, other)
        assert find_plan(tmp_path, "job") is not None
    assert other.calls == []


def test_another_job_is_turned_away_while_one_is_planned(tmp_path: Path) -> None:
    planned = threading.Event()
    first, other = Planner("job", wait_for=planned), Planner("other")
    with ThreadPoolExecutor(1) as pool:
        running = in_thread(pool, tmp_path, first)
        while not first.calls:
            time.sleep(0.001)
        try:
            with (
                StoreLock(tmp_path) as lock,
                pytest.raises(StoreError, match="another process is writing here"),
            ):
                enter(lock, other)
        finally:
            planned.set()
        assert running.result(10).facts.job == "job"
    assert other.calls == []


def test_a_worker_that_comes_before_its_job_is_announced_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking the lock and saying what for are two steps: in between, the file names an old job."""
    honest = StoreLock.announced
    jobs: list[str] = []

    def announced(lock: StoreLock) -> str:
        if len(jobs) == 3:
            first.announce("job")
        if len(jobs) == 30:
            first.release()
        jobs.append(honest(lock))
        return jobs[-1]

    monkeypatch.setattr(StoreLock, "announced", announced)
    planner = Planner("job")
    with StoreLock(tmp_path) as first, StoreLock(tmp_path) as second:
        first.announce("an old job")
        assert first.acquire()
        assert enter(second, planner).facts.job == "job"
    assert jobs == ["an old job"] * 3 + ["job"] * 28
    assert len(planner.calls) == 1


def test_who_waits_without_a_plan_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job ends just between two steps of somebody who waits for it: there is no plan to share.

    Two that kept their share of the lock would keep each other from planning for ever.
    """
    honest = StoreLock.acquire
    free: list[bool] = []

    def acquire(lock: StoreLock, *, shared: bool = False) -> bool:
        if shared:
            holder.release()
        return honest(lock, shared=shared)

    def sleep(_seconds: float) -> None:
        with StoreLock(tmp_path) as other:
            free.append(honest(other))

    with StoreLock(tmp_path) as holder, StoreLock(tmp_path) as lock:
        assert holder.acquire()
        monkeypatch.setattr(StoreLock, "acquire", acquire)
        monkeypatch.setattr(job_module, "time", SimpleNamespace(sleep=sleep))
        assert enter(lock, Planner("job")).facts.job == "job"
    assert free == [True]


def test_many_workers_that_start_at_once_make_one_plan(tmp_path: Path) -> None:
    planners = [Planner("job") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        plans = [future.result(20) for future in [in_thread(pool, tmp_path, p) for p in planners]]
    assert len({plan.facts for plan in plans}) == 1
    assert sum(len(planner.calls) for planner in planners) == 1


def test_an_abandoned_plan_of_the_same_job_is_gone_on_with(tmp_path: Path) -> None:
    again = Planner("job")
    with at_work(tmp_path, "job") as plan:
        seal(tmp_path, plan, 1)
    with StoreLock(tmp_path) as lock:
        result = enter(lock, again)
    assert again.calls == []
    assert result.pending(tmp_path) == [0]


def test_an_abandoned_plan_of_another_job_goes_and_its_shards_stay(tmp_path: Path) -> None:
    with at_work(tmp_path, "old") as plan:
        seal(tmp_path, plan, 0)
        before = shard_path(tmp_path, 0).read_bytes()
    new = Planner("new")
    with StoreLock(tmp_path) as lock:
        result = enter(lock, new)
        assert result.facts.job == "new" and new.listed == [1]
        assert result.facts.first_shard == 1
    (shard,) = read_manifest(tmp_path).shards
    assert (shard.name, shard.job) == ("000000.h5", "old")
    assert shard_path(tmp_path, 0).read_bytes() == before
    assert find_plan(tmp_path, "old") is None


@pytest.mark.parametrize("error", [StoreError("no"), KeyboardInterrupt()])
def test_a_planner_that_fails_leaves_no_plan(error: BaseException, tmp_path: Path) -> None:
    with StoreLock(tmp_path) as lock, pytest.raises(type(error)):
        enter(lock, Planner("job", error=error))
    assert list(tmp_path.glob("plan*")) == []
    with StoreLock(tmp_path) as lock:
        assert enter(lock, Planner("job")).facts.job == "job"


def test_what_a_killed_planner_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "plan.4711").mkdir(parents=True)
    (tmp_path / "plan.4711" / "tokens.i32").write_bytes(b"half")
    with StoreLock(tmp_path) as lock:
        enter(lock, Planner("job"))
    assert [path.name for path in tmp_path.glob("plan*")] == ["plan"]


def test_a_damaged_plan_stops_the_job_and_names_its_directory(tmp_path: Path) -> None:
    with at_work(tmp_path, "job") as plan:
        pass
    (plan.directory / "plan.json").write_text("{")
    with StoreLock(tmp_path) as lock, pytest.raises(StoreError, match=f"{plan.directory}: not a"):
        enter(lock, Planner("job"))


@pytest.mark.parametrize(
    ("identity", "width", "words"),
    [(replace(IDENTITY, weights="x"), WIDTH, "weights: "), (IDENTITY, 9, "have width 3")],
)
def test_a_store_of_another_backbone_is_refused_before_planning(
    identity: Identity, width: int, words: str, tmp_path: Path
) -> None:
    with at_work(tmp_path, "job"):
        pass
    planner = Planner("other")
    with StoreLock(tmp_path) as lock, pytest.raises(StoreError, match=words):
        open_job(lock, identity, "other", width, planner)
    assert planner.calls == []
