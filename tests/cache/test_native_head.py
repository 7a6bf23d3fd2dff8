"""The backbone's own reward head beside its vectors."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from micro_rm.cache.native_head import FILE, read_native_head, write_native_head
from micro_rm.cache.schema import StoreError

HEAD_D = np.array([0.5, -1e-30, 3e8, 0.1], np.float32)


def test_the_head_comes_back_to_the_last_bit_and_replaces_an_older_one(tmp_path: Path) -> None:
    assert read_native_head(tmp_path) is None
    for written in (np.zeros(9), HEAD_D):
        assert write_native_head(tmp_path, written) == tmp_path / FILE
    head = read_native_head(tmp_path)
    assert head is not None and head.dtype == np.float32
    assert head.tobytes() == HEAD_D.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    (tmp_path / "other").mkdir()
    again = write_native_head(tmp_path / "other", HEAD_D)
    assert again.read_bytes() == (tmp_path / FILE).read_bytes()


def test_a_file_that_is_no_head_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello")
    with pytest.raises(StoreError, match=rf"{FILE}: not readable as HDF5"):
        read_native_head(tmp_path)
    with h5py.File(tmp_path / FILE, "w") as file:
        file["other"] = HEAD_D
    with pytest.raises(StoreError, match=rf"{FILE}: no data set 'weight'"):
        read_native_head(tmp_path)
