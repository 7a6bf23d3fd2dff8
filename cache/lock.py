"""Who may change a store: one process alone, or the workers of one job side by side."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from .schema import StoreError


class FileLock:
    """A lock on a file that the system takes back however a process ends.

    Raises ``StoreError`` on a file system without locks.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, *, shared: bool = False) -> bool:
        """Take the lock, or change its kind, without waiting; whether that was possible."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path}: this file system knows no locks ({error}); put store.dir on one "
                "that does"
            ) from error
        return True

    def pause(self) -> None:
        """Give the lock back but keep the file open, to take the lock again."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def release(self) -> None:
        """Give the lock back and close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


class StoreLock(FileLock):
    """The right to write to a store. Its file names the job that last held it alone."""

    def __init__(self, store: Path) -> None:
        super().__init__(store / "writer.lock")
        self.store = store

    def announce(self, job: str) -> None:
        """Say which job holds the lock, for those who find it taken."""
        self.path.write_text(job, "utf-8")

    def announced(self) -> str:
        """The job that was announced last, empty if none was."""
        return self.path.read_text("utf-8")

    def busy(self) -> StoreError:
        """The error for those who cannot wait."""
        return StoreError(
            f"{self.store}: another process is writing here; wait for it, or choose another "
            "store.dir"
        )
