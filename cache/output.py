"""Write HDF5 files such that a full disk raises ``OSError`` instead of crashing the process.

When a write fails, HDF5 can no longer close the file, and closing it at exit is a segmentation
fault. So HDF5 writes to a file object whose writes never fail: it keeps the first error, drops all
data after it, and raises the error once HDF5 has closed the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class OutputFile:
    """File object for ``h5py.File(output, "w")`` whose writes never raise.

    ``check`` raises the first ``OSError`` that a write met.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._error: OSError | None = None
        self._position = self._size = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

    def check(self) -> None:
        """Raise the first error, if there was one, with its error number and the file's name."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self.path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it; HDF5 asks for the size by seeking to the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """Position of the next read or write."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of the data, or keep the error; either way the position advances."""
        remaining = memoryview(data).cast("B")
        size = len(remaining)
        try:
            while remaining and self._error is None:
                offset = self._position + size - len(remaining)
                count = os.pwrite(self._descriptor, remaining, offset)
                remaining = remaining[count:]
        except OSError as error:
            self._error = error
        self._position += size
        self._size = max(self._size, self._position)
        return size

    def read(self, size: int) -> bytes:
        """Read bytes back; h5py recognises a file object by this method."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Read back what was written, and zeros for what was dropped after an error."""
        view = memoryview(buffer).cast("B")
        count = os.preadv(self._descriptor, [view], self._position)
        view[count:] = bytes(len(view) - count)
        self._position += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the size of the file, or keep the error."""
        self._size = size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Do nothing: writes are unbuffered, and ``commit_file`` syncs the file."""


@contextmanager
def create_hdf5(path: Path, **layout: Any) -> Iterator[h5py.File]:
    """Create an HDF5 file; it is removed again if the body or a write fails.

    ``layout`` are options of ``h5py.File``. Raises ``OSError`` with the error number and file name
    of the first failed write, whatever h5py raised because of it.
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
