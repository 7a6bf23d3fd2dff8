"""One job over one store, by any number of processes: who plans, who joins, who finishes.

Whoever has the store for itself plans and shares it from then on. The others of the same job join
in; other jobs are turned away. When all shards are sealed, one process lists them in the manifest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ..cache.lock import StoreLock
from ..cache.manifest import read_manifest
from ..cache.schema import Identity, plan_path
from ..cache.writer import adopt_shards, open_manifest, recover_store
from .disk_space import bytes_left, full_disk_explained, require_space
from .plan import Plan, find_plan, move_plan, remove_plan

POLL_SECONDS = 0.1
# Whoever has just taken the lock has announced its job after this many polls.
ANNOUNCE_POLLS = 10


def open_job(
    lock: StoreLock,
    identity: Identity,
    job: str,
    width: int,
    make: Callable[[Path], Plan],
) -> Plan:
    """The plan of a job, with the store shared among its workers.

    ``make`` plans into an empty directory if nobody has done so. Shards of an older job that was
    abandoned are kept, its plan is dropped. Raises ``StoreError`` if another job is at work, and
    ``SpaceError`` if what the plan writes does not fit on the disk.
    """
    strange = 0
    while True:
        if lock.acquire():
            with full_disk_explained(lock.store, lambda: None):
                _prepare(lock, identity, job, width, make)
        if lock.acquire(shared=True):
            plan = find_plan(lock.store, job)
            if plan is not None:
                require_space(plan, lock.store, identity.dtype)
                return plan
            if plan_path(lock.store).exists():
                raise lock.busy_error()
            # Two that keep their share would keep each other from planning for ever.
            lock.release()
        elif lock.announced() != job:
            strange += 1
            if strange > ANNOUNCE_POLLS:
                raise lock.busy_error()
        time.sleep(POLL_SECONDS)


def close_job(lock: StoreLock, job: str, finish: Callable[[Plan], None]) -> bool:
    """Finish a job whose shards are all sealed; whether this process was the one to do it.

    ``finish`` sees the shards in the manifest. Waits for the other workers to let go.
    """
    # Two workers that both wait for the other one's share would wait for ever.
    lock.release()
    while not lock.acquire():
        time.sleep(POLL_SECONDS)
    plan = find_plan(lock.store, job)
    if plan is None:
        return False
    dtype = read_manifest(lock.store).identity.dtype
    with full_disk_explained(lock.store, lambda: bytes_left(plan, lock.store, dtype)):
        recover_store(lock.store)
        finish(plan)
    remove_plan(lock.store)
    return True


def _prepare(
    lock: StoreLock, identity: Identity, job: str, width: int, make: Callable[[Path], Plan]
) -> None:
    """Leave behind a sealed plan of this job; the caller has the store for itself."""
    store = lock.store
    lock.announce(job)
    manifest = open_manifest(store, identity, width)
    if find_plan(store, job) is not None:
        return
    adopt_shards(store, manifest)
    remove_plan(store)
    directory = store / f"plan.{os.getpid()}"
    directory.mkdir()
    try:
        make(directory)
        move_plan(directory, store)
    except BaseException:
        remove_plan(store)
        raise
