"""Coordinate the processes of one job over a store: which one plans, which join, which finishes.

A process with exclusive access to the store plans the job and then shares the lock. Processes of
the same job join it; other jobs are turned away. When all shards are sealed, one process lists
them in the manifest.
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
from .disk_space import explain_full_disk, require_space, required_space
from .plan import Plan, find_plan, publish_plan, remove_plan

POLL_SECONDS = 0.1
# A process that has just taken the lock announces its job within this many polls of another one.
ANNOUNCE_POLLS = 10


def open_job(
    lock: StoreLock,
    identity: Identity,
    job: str,
    width: int,
    make: Callable[[Path], Plan],
) -> Plan:
    """Join a job, planning it first if no process has done so; returns with the lock shared.

    Sealed shards of an older, abandoned job are kept, and its plan is removed.

    Args:
        lock: Lock of the store.
        identity: Identity of the vectors; it has to be that of the store.
        job: Name of the job.
        width: Size of a vector.
        make: Writes the plan into an empty directory.

    Raises:
        StoreError: Another job is using the store.
        SpaceError: What the plan writes does not fit on the disk.
    """
    foreign_polls = 0
    while True:
        # Alone at the store: plan, unless that is done. Otherwise share it with those at work.
        if lock.acquire():
            with explain_full_disk(lock.store, lambda: None):
                _prepare(lock, identity, job, width, make)
        if lock.acquire(shared=True):
            plan = find_plan(lock.store, job)
            if plan is not None:
                require_space(plan, lock.store, identity.dtype)
                return plan
            if plan_path(lock.store).exists():
                raise lock.busy_error()
            # No plan yet. Two processes that kept their shared locks would keep each other from
            # the exclusive one that planning needs, forever.
            lock.release()
        elif lock.announced() != job:
            foreign_polls += 1
            if foreign_polls > ANNOUNCE_POLLS:
                raise lock.busy_error()
        time.sleep(POLL_SECONDS)


def close_job(lock: StoreLock, job: str, finish: Callable[[Plan], None]) -> bool:
    """Finish a job whose shards are all sealed; returns whether this process did so.

    Waits until the other processes have released the store. ``finish`` is called once the shards
    are listed in the manifest.
    """
    # Release the shared lock first: two processes that each wait for the other's would deadlock.
    lock.release()
    while not lock.acquire():
        time.sleep(POLL_SECONDS)
    plan = find_plan(lock.store, job)
    if plan is None:
        return False
    dtype = read_manifest(lock.store).identity.dtype
    with explain_full_disk(lock.store, lambda: required_space(plan, lock.store, dtype)):
        recover_store(lock.store)
        finish(plan)
    remove_plan(lock.store)
    return True


def _prepare(
    lock: StoreLock, identity: Identity, job: str, width: int, make: Callable[[Path], Plan]
) -> None:
    """Make sure that there is a plan of this job. The caller holds the store exclusively."""
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
        publish_plan(directory, store)
    except BaseException:
        remove_plan(store)
        raise
