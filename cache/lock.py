"""Who may change a store: one process alone, or the workers of one job side by side.

The lock is the system's (``flock``): it ends with the process that holds it, however that ends, so
that there is no stale lock to remove. What stands in the file is for people: who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from .schema import StoreError

LOCK = "writer.lock"


class FileLock:
    """A lock on a file that the system takes back however a process ends.

    Raises ``StoreError`` on a file system without locks, or with locks that keep nobody out.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, *, shared: bool = False) -> bool:
        """Take the lock, or change its kind, without waiting; whether that was possible."""
        return self._flock(self._descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def release(self) -> None:
        """Give the lock back but keep the file open, to take the lock again."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back and close the file."""
        os.close(self._descriptor)

    def _flock(self, descriptor: int, kind: int) -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path}: this file system knows no locks ({error}); put store.dir on one "
                "that does"
            ) from error
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Owner:
    """Who began the work that a store is locked for; ``started`` in UTC."""

    host: str
    pid: int
    job: str
    started: str

    @classmethod
    def this_process(cls, job: str) -> Owner:
        """This process, now."""
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(socket.gethostname(), os.getpid(), job, started)

    def describe(self) -> str:
        """Who this is and whether it still lives, as far as this machine can tell."""
        who = f"process {self.pid} on {self.host} began job {self.job} at {self.started}"
        if self.host != socket.gethostname():
            return (
                f"{who}; if that machine is gone, the file server gives the lock back by itself "
                "after a while"
            )
        if not _alive(self.pid):
            return f"{who} and has ended, other processes of that job go on"
        return who


class StoreLock(FileLock):
    """The right to write to a store. Its file names the process that last held it alone."""

    def __init__(self, store: Path) -> None:
        super().__init__(store / LOCK)
        self.store = store
        self._proven = False

    def acquire(self, *, shared: bool = False) -> bool:
        """As of every lock, after a proof that this file system's locks keep others out."""
        taken = super().acquire(shared=shared)
        # Two that lock a removed file and a new one would both have the store for themselves.
        while self._moved():
            self.close()
            super().__init__(self.path)
            taken = super().acquire(shared=shared)
        if taken and not shared and not self._proven:
            self._prove()
        return taken

    def announce(self, job: str) -> None:
        """Say who holds the lock and for which job, for those who find it taken."""
        text = json.dumps(asdict(Owner.this_process(job)))
        # Not replaced: the lock is on this very file. Who reads in between waits for the next look.
        os.pwrite(self._descriptor, text.encode(), 0)
        os.ftruncate(self._descriptor, len(text.encode()))

    def owner(self) -> Owner | None:
        """Who was announced last, None if nobody was or the file is damaged."""
        try:
            found = json.loads(self.path.read_text("utf-8"))
            return Owner(str(found["host"]), int(found["pid"]), str(found["job"]), found["started"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def announced(self) -> str:
        """The job that was announced last, empty if none was."""
        owner = self.owner()
        return "" if owner is None else owner.job

    def busy_error(self) -> StoreError:
        """The error for those who cannot wait."""
        owner = self.owner()
        who = "its name is not in the lock file" if owner is None else owner.describe()
        return StoreError(
            f"{self.store}: another process is writing here; wait for it, or choose another "
            f"store.dir ({who}; {self.path} is its lock: it ends with the process, never remove "
            "the file)"
        )

    def _moved(self) -> bool:
        """Whether somebody has removed or replaced the lock file since it was opened."""
        opened = os.fstat(self._descriptor)
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino)

    def _prove(self) -> None:
        """Refuse a file system that says yes to two owners at once."""
        second = os.open(self.path, os.O_RDWR)
        try:
            broken = self._flock(second, fcntl.LOCK_EX)
        finally:
            os.close(second)
        if broken:
            raise StoreError(
                f"{self.path}: locks of this file system keep nobody out; put store.dir on another "
                "one (on NFS version 4, or mounted with lockd)"
            )
        self._proven = True


def _alive(pid: int) -> bool:
    """Whether a process of this machine lives, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
