"""HDF5 files of a store, opened so that nothing in them reaches beyond them.

HDF5 can point into other files (external links, external storage, virtual data sets), name filters
that load code, and claim shapes that no file of its size holds. This project writes none of these,
so a file that has one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from .schema import StoreError

# What h5py raises on damaged structures, depending on where it meets them.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file of a store for reading; every error of HDF5 becomes a ``StoreError`` with a remedy."""
    if not path.is_file():
        raise StoreError(f"{path}: missing, though the manifest lists it; run micro-rm verify")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{path}: not readable as HDF5 of this store ({reason}); run micro-rm verify"
        ) from error


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set of an HDF5 file, stored in that file alone.

    Raises ``StoreError`` if there is none of that name, if it is reached through a soft or external
    link, is virtual or filtered, lies in another file, or claims more bytes than are stored.
    """
    where = f"{file.filename}: data set {name!r}"
    group: h5py.Group = file
    *parents, last = name.split("/")
    for part in (*parents, last):
        if part not in group:
            raise StoreError(f"{file.filename}: no data set {name!r}; run micro-rm verify")
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise StoreError(
                f"{where} is a {type(link).__name__} to elsewhere, which no store has; do not use "
                "this file, restore the store from a copy you trust"
            )
        found = group[part]
        if isinstance(found, h5py.Group):
            group = found
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{file.filename}: no data set {name!r}, a group; run micro-rm verify")
    problem = _foreign(found)
    if problem:
        raise StoreError(
            f"{where} {problem}, which no store has; do not use this file, restore the store from "
            "a copy you trust"
        )
    stored, claimed = found.id.get_storage_size(), found.size * found.dtype.itemsize
    if not claimed <= stored <= file.id.get_filesize():
        raise StoreError(
            f"{where} claims {claimed:,} bytes, {stored:,} are stored; run micro-rm verify"
        )
    return found


def _foreign(data: h5py.Dataset) -> str:
    """What makes a data set depend on more than its own file; empty if nothing does."""
    layout = data.id.get_create_plist()
    if layout.get_external_count():
        return "lies in another file"
    if data.is_virtual:
        return "is put together from other files"
    if layout.get_nfilters():
        return f"is filtered ({layout.get_filter(0)[3].decode(errors='replace')})"
    return ""
