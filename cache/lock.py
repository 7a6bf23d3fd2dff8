"""The lock of a store: exclusive for one writer, or shared among the workers of one job.

It is an advisory lock of the operating system (``flock``), which ends with the process that holds
it, however that process ends: there are no stale locks to remove. The content of the lock file only
tells people who holds it.
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
    """An advisory lock on a file, exclusive or shared; use it as a context manager.

    The file and its directories are created if they are missing. The methods raise ``StoreError``
    on a file system that has no locks.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, *, shared: bool = False) -> bool:
        """Try to take the lock, or to convert the one that is held, without waiting.

        Returns:
            Whether the lock is held now. A conversion that fails may lose the lock held before.
        """
        return self._flock(self._descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def release(self) -> None:
        """Release the lock but keep the file open, so that it can be acquired again."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the lock and close the file."""
        os.close(self._descriptor)

    def _flock(self, descriptor: int, kind: int) -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path}: this file system does not support locks ({error}); put store.dir on "
                "one that does"
            ) from error
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Owner:
    """The process that announced itself in a lock file; ``started`` is in UTC."""

    host: str
    pid: int
    job: str
    started: str

    @classmethod
    def this_process(cls, job: str) -> Owner:
        """This process, starting ``job`` now."""
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(socket.gethostname(), os.getpid(), job, started)

    def describe(self) -> str:
        """Describe the process and, if it ran on this machine, whether it has ended."""
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
    """The lock that every writer of a store holds.

    Its file names the process that last held it exclusively. ``acquire`` also raises ``StoreError``
    on a file system whose locks exclude nobody.
    """

    def __init__(self, store: Path) -> None:
        super().__init__(store / LOCK)
        self.store = store
        self._tested = False

    def acquire(self, *, shared: bool = False) -> bool:
        """As ``FileLock.acquire``; the first exclusive lock also tests that it excludes others."""
        acquired = super().acquire(shared=shared)
        # If somebody removed the file, others lock a new one, and both sides would hold "the" lock.
        # Reopen until the locked file is the one at the path.
        while self._replaced():
            self.close()
            super().__init__(self.path)
            acquired = super().acquire(shared=shared)
        if acquired and not shared and not self._tested:
            self._test_exclusion()
        return acquired

    def announce(self, job: str) -> None:
        """Write this process and its job into the lock file, for processes that find it locked."""
        text = json.dumps(asdict(Owner.this_process(job)))
        # In place, because the lock belongs to this very file. A reader that sees half of the text
        # takes it for no owner and reads again later.
        os.pwrite(self._descriptor, text.encode(), 0)
        os.ftruncate(self._descriptor, len(text.encode()))

    def owner(self) -> Owner | None:
        """The process announced last, None if there is none or the file is damaged."""
        try:
            raw = json.loads(self.path.read_text("utf-8"))
            return Owner(str(raw["host"]), int(raw["pid"]), str(raw["job"]), raw["started"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def announced(self) -> str:
        """The job announced last, empty if there is none."""
        owner = self.owner()
        return "" if owner is None else owner.job

    def busy_error(self) -> StoreError:
        """The error to raise if the lock is taken and the caller cannot wait."""
        owner = self.owner()
        who = "its name is not in the lock file" if owner is None else owner.describe()
        return StoreError(
            f"{self.store}: another process is writing here; wait for it, or choose another "
            f"store.dir ({who}; {self.path} is its lock: it ends with the process, never remove "
            "the file)"
        )

    def _replaced(self) -> bool:
        """Whether the lock file was removed or replaced since it was opened."""
        opened = os.fstat(self._descriptor)
        try:
            current = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (current.st_dev, current.st_ino) != (opened.st_dev, opened.st_ino)

    def _test_exclusion(self) -> None:
        """Raise ``StoreError`` if a second exclusive lock is granted while this one is held."""
        # ``flock`` locks belong to the open file, so a second descriptor stands for a rival.
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
        self._tested = True


def _alive(pid: int) -> bool:
    """Whether a process of this machine exists, whichever user it belongs to."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it exists, but is somebody else's
        return True
    return True
