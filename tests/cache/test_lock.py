"""The lock of a store is exclusive or shared, and ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from micro_rm.cache.lock import FileLock, StoreLock
from micro_rm.cache.schema import StoreError

OWNER = """
import sys, time
from pathlib import Path
from micro_rm.cache.lock import StoreLock
lock = StoreLock(Path(sys.argv[1]))
lock.announce("its job")
print(lock.acquire(shared=sys.argv[2] == "shared"), flush=True)
time.sleep(60)
"""


@contextmanager
def owner(store: Path, kind: str) -> Iterator[int]:
    """Another process that holds the lock of a store until it is killed; yields its id."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(store), kind], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_lock_is_converted_and_released(tmp_path: Path) -> None:
    with FileLock(tmp_path / "x.lock") as one, FileLock(tmp_path / "x.lock") as other:
        assert one.acquire() and one.acquire(shared=True)
        assert other.acquire(shared=True) and not one.acquire()
        other.release()
        assert one.acquire() and not other.acquire(shared=True)
        one.release()
        assert other.acquire()


def test_a_lock_is_released_when_its_block_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), FileLock(tmp_path / "x.lock") as one:
        assert one.acquire()
        raise KeyboardInterrupt
    with FileLock(tmp_path / "x.lock") as other:
        assert other.acquire()


@pytest.mark.parametrize("kind", ["alone", "shared"])
def test_the_lock_holds_between_processes_and_dies_with_its_owner(
    kind: str, tmp_path: Path
) -> None:
    store = tmp_path / "new" / "store"
    with StoreLock(store) as lock:
        with owner(store, kind):
            assert not lock.acquire()
            assert lock.acquire(shared=True) is (kind == "shared")
            lock.release()
        assert lock.acquire()


def test_the_error_says_who_holds_the_lock_since_when_where_and_what_to_do(tmp_path: Path) -> None:
    with StoreLock(tmp_path) as lock, owner(tmp_path, "alone") as pid:
        message = str(lock.busy_error())
        named = lock.owner()
    assert named is not None
    assert (named.host, named.pid, named.job) == (socket.gethostname(), pid, "its job")
    assert message.startswith(f"{tmp_path}: another process is writing here; wait for it")
    assert "store.dir" in message
    assert f"process {pid} on {named.host} began job its job at {named.started};" in message
    assert str(tmp_path / "writer.lock") in message


def test_an_owner_that_has_ended_and_one_elsewhere_are_explained(tmp_path: Path) -> None:
    with owner(tmp_path, "shared"):
        pass
    with StoreLock(tmp_path) as lock:
        assert "has ended, other processes of that job go on" in str(lock.busy_error())
        elsewhere = {"host": "gone", "pid": 1, "job": "j", "started": "2026-01-02T03:04:05Z"}
        lock.path.write_text(json.dumps(elsewhere))
        assert "process 1 on gone began job j at 2026-01-02T03:04:05Z; if that machine is gone" in (
            str(lock.busy_error())
        )


@pytest.mark.parametrize("text", ["", "[]", '{"host": "h"}', "[" * 5000])
def test_a_lock_file_that_says_nothing_locks_all_the_same(text: str, tmp_path: Path) -> None:
    (tmp_path / "writer.lock").write_text(text)
    with StoreLock(tmp_path) as lock, StoreLock(tmp_path) as other:
        assert lock.acquire()
        assert not other.acquire()
        assert (other.owner(), other.announced()) == (None, "")
        assert "its name is not in the lock file" in str(other.busy_error())


def test_what_a_dead_owner_announced_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    with owner(tmp_path, "alone") as pid:
        pass
    with StoreLock(tmp_path) as lock:
        assert (lock.owner().pid, lock.announced(), lock.acquire()) == (pid, "its job", True)
        lock.announce("next")
        assert (lock.owner().pid, lock.announced()) == (os.getpid(), "next")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_removed_lock_file_is_locked_anew(replaced: bool, tmp_path: Path) -> None:
    """Else one process would lock the old file, another the new one, and both would write."""
    with StoreLock(tmp_path) as early:
        early.path.unlink()
        if replaced:
            early.path.write_text("")
        with StoreLock(tmp_path) as late:
            assert late.acquire()
            assert not early.acquire()


def no_locks(_descriptor: int, _kind: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("flock", "message"),
    [
        (lambda _descriptor, _kind: None, "keep nobody out; put store"),
        (no_locks, r"does not support locks \(.*; put store\.dir on one that does"),
    ],
    ids=["locks that exclude nobody", "no locks"],
)
def test_a_file_system_without_locks_is_refused(
    flock: Callable[[int, int], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    with StoreLock(tmp_path) as lock, pytest.raises(StoreError, match=message):
        lock.acquire()
