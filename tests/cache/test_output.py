"""A disk that fills up while HDF5 writes raises OSError with its errno, and crashes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from micro_rm.cache.output import OutputFile, create_hdf5


class Disk:
    """A disk with so many bytes free; every write beyond them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: int, number: int) -> None:
        self.capacity, self.number, self.failures = capacity, number, 0
        self.honest = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write a part of the data, as the system may, or fail if nothing fits."""
        size = min(len(data), 1000, self.capacity)
        if not size:
            self.failures += 1
            raise OSError(self.number, os.strerror(self.number))
        self.capacity -= size
        return self.honest(descriptor, data[:size], offset)


def write(path: Path) -> None:
    with create_hdf5(path, alignment_threshold=1, alignment_interval=4096) as file:
        file.create_dataset("vectors", data=np.arange(4000.0), track_times=False)
        text = file.create_dataset("text", (0,), maxshape=(None,), dtype=h5py.string_dtype())
        for block in range(5):
            text.resize((100 * (block + 1),))
            text[100 * block :] = [f"text {block}"] * 100
        file.attrs["job"] = "a job"


def test_the_file_is_what_hdf5_writes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, 1 << 30, errno.EIO)  # never full, but writes in small pieces
    write(tmp_path / "ours.h5")
    with h5py.File(tmp_path / "ours.h5") as file:
        assert np.array_equal(file["vectors"][:], np.arange(4000.0))
        assert file["vectors"].id.get_offset() % 4096 == 0
        assert list(file["text"].asstr()[::100]) == [f"text {block}" for block in range(5)]
        assert file.attrs["job"] == "a job"


@pytest.mark.parametrize(
    ("number", "capacity"),
    [
        (errno.ENOSPC, 0),
        (errno.EDQUOT, 1),
        (errno.EFBIG, 5000),
        (errno.EIO, 33000),
        (errno.ENOSPC, 40000),
    ],
)
def test_a_write_that_fails_is_raised_once_with_its_number_and_file(
    number: int, capacity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, capacity, number)
    with pytest.raises(OSError, match="full") as caught:
        write(tmp_path / "full.h5")
    assert (caught.value.errno, disk.failures) == (number, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_given_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ftruncate(_descriptor: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "full.h5")


def test_another_error_is_not_hidden_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), create_hdf5(tmp_path / "x.h5"):
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_written_reads_as_zeros(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "x")
    output.write(b"abc")
    output.seek(1)
    buffer = bytearray(b"????")
    output.readinto(buffer)
    output.close()
    assert bytes(buffer) == b"bc\0\0"
    assert output.seek(0, os.SEEK_END) == 3
    assert output.seek(-1, os.SEEK_CUR) == output.tell() == 2
