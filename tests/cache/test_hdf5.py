"""HDF5 files that reach beyond themselves or claim more than they hold are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from micro_rm.cache.hdf5 import dataset, open_hdf5
from micro_rm.cache.schema import StoreError


def soft_link(file: h5py.File, _other: Path) -> None:
    file["y"] = np.ones(3)
    file["x"] = h5py.SoftLink("/y")


def external_group(file: h5py.File, other: Path) -> None:
    file["group"] = h5py.ExternalLink(str(other), "/")


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("x", (3,), np.float64, external=[(str(other), 0, 24)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((3,), np.float64)
    layout[:] = h5py.VirtualSource(str(other), "x", (3,))
    file.create_virtual_dataset("x", layout)


def filtered(file: h5py.File, _other: Path) -> None:
    file.create_dataset("x", data=np.ones(300), compression="gzip")


def hollow(file: h5py.File, _other: Path) -> None:
    """Claims a petabyte but stores nothing; reading it would fill the memory with zeros."""
    file.create_dataset("x", (1 << 47,), np.float64, chunks=(1024,))


ATTACKS: dict[Callable[[h5py.File, Path], None], str] = {
    soft_link: "is a SoftLink to elsewhere",
    external_group: "is a ExternalLink to elsewhere",
    external_storage: "lies in another file",
    virtual: "is put together from other files",
    filtered: r"is filtered \(",
    hollow: "claims 1,125,899,906,842,624 bytes, 0 are stored",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_file_that_reaches_beyond_itself_is_refused(
    attack: Callable[[h5py.File, Path], None], tmp_path: Path
) -> None:
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.arange(3.0)
    with h5py.File(tmp_path / "attack.h5", "w") as file:
        attack(file, other)
    name = "group/x" if attack is external_group else "x"
    with (
        pytest.raises(StoreError, match=ATTACKS[attack]),
        open_hdf5(tmp_path / "attack.h5") as file,
    ):
        dataset(file, name)


def test_a_data_set_of_the_file_itself_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "honest.h5", "w") as file:
        file["group/x"] = np.arange(3.0)
        file.create_dataset("text", (0,), h5py.string_dtype(), chunks=(8,), maxshape=(None,))
    with open_hdf5(tmp_path / "honest.h5") as file:
        assert dataset(file, "group/x")[:].tolist() == [0, 1, 2]
        assert dataset(file, "text").shape == (0,)
        for name, words in (("group", "'group', a group"), ("nowhere", "'nowhere'")):
            with pytest.raises(StoreError, match=rf"honest\.h5: no data set {words}"):
                dataset(file, name)


def test_what_is_no_hdf5_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    words = r"x\.h5: not readable .*; run micro-rm verify"
    with pytest.raises(StoreError, match=words), open_hdf5(path):
        pass
