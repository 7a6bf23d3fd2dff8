"""Open the HDF5 files of a store without trusting them.

An HDF5 file can point into other files (external links, external storage, virtual data sets), name
filters that load code, and claim shapes far larger than itself. Stores are shared between people
and never need any of this, so a file that uses it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from .schema import StoreError

# What h5py raises on a damaged file, depending on where it meets the damage.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file of a store for reading.

    Errors of h5py, also those in the body of the ``with`` block, become a ``StoreError`` that names
    the file and the remedy.
    """
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
    """Look up a data set by its path in an HDF5 file, and check that it is stored in that file.

    Raises ``StoreError`` if there is none of that name, if it is reached through a soft or external
    link, is virtual or filtered, lies in another file, or claims more bytes than are stored.
    """
    where = f"{file.filename}: data set {name!r}"
    group: h5py.Group = file
    *parents, last = name.split("/")
    # One step at a time: looking up the whole path would follow a link in its middle.
    for part in (*parents, last):
        if part not in group:
            raise StoreError(f"{file.filename}: no data set {name!r}; run micro-rm verify")
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise StoreError(
                f"{where} is a {type(link).__name__} to elsewhere, which no store has; do not use "
                "this file, restore the store from a copy you trust"
            )
        item = group[part]
        if isinstance(item, h5py.Group):
            group = item
    if not isinstance(item, h5py.Dataset):
        raise StoreError(f"{file.filename}: no data set {name!r}, a group; run micro-rm verify")
    problem = _external_storage(item)
    if problem:
        raise StoreError(
            f"{where} {problem}, which no store has; do not use this file, restore the store from "
            "a copy you trust"
        )
    # HDF5 reads what is claimed but not stored as zeros: a small file could fill the memory.
    stored, claimed = item.id.get_storage_size(), item.size * item.dtype.itemsize
    if not claimed <= stored <= file.id.get_filesize():
        raise StoreError(
            f"{where} claims {claimed:,} bytes, {stored:,} are stored; run micro-rm verify"
        )
    return item


def _external_storage(data: h5py.Dataset) -> str:
    """Why reading a data set needs more than its own file; empty if it does not."""
    layout = data.id.get_create_plist()
    if layout.get_external_count():
        return "lies in another file"
    if data.is_virtual:
        return "is put together from other files"
    if layout.get_nfilters():
        return f"is filtered ({layout.get_filter(0)[3].decode(errors='replace')})"
    return ""
