"""An HDF5 file that is written through the system's own calls, so that a full disk is an error.

HDF5 crashes the process when a write fails (the file can no longer be closed, and closing it at
exit is a segmentation fault). So it never sees one: the first error is kept, what follows is
dropped, and the error is raised as soon as HDF5 is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class OutputFile:
    """A file for ``h5py.File(output, "w")``; ``check`` raises the first ``OSError`` that it met."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._error: OSError | None = None
        self._place = self._size = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

    def check(self) -> None:
        """Raise what went wrong, with the file's name and the system's error number."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self.path))

    def close(self) -> None:
        """Close the file; what HDF5 has not written is lost."""
        os.close(self._descriptor)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place; HDF5 also asks for the end in this way."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}
        self._place = base[whence] + offset
        return self._place

    def tell(self) -> int:
        """The place of the next read or write."""
        return self._place

    def write(self, data: Any) -> int:
        """Write all of it, or keep the error."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self._error is None:
                done = os.pwrite(self._descriptor, left, self._place + size - len(left))
                left = left[done:]
        except OSError as error:
            self._error = error
        self._place += size
        self._size = max(self._size, self._place)
        return size

    def read(self, size: int) -> bytes:
        """Read back; h5py takes for a file what has this method."""
        found = bytearray(size)
        self.readinto(found)
        return bytes(found)

    def readinto(self, buffer: Any) -> int:
        """Read back what was written; zeros for what was not."""
        view = memoryview(buffer).cast("B")
        found = os.preadv(self._descriptor, [view], self._place)
        view[found:] = bytes(len(view) - found)
        self._place += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Give the file its size, or keep the error."""
        self._size = size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Nothing is held back; ``commit_file`` syncs."""


@contextmanager
def create_hdf5(path: Path, **layout: Any) -> Iterator[h5py.File]:
    """A new HDF5 file, removed again if it could not be written whole.

    ``layout`` are options of ``h5py.File``. Raises ``OSError`` with number and file name, whatever
    HDF5 made of it.
    """
    output = OutputFile(path)
    try:
        try:
            with h5py.File(output, "w", **layout) as file:
                yield file
        finally:
            output.close()
            output.check()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
