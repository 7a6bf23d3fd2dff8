"""Pair tables: preference pairs as row indices into a store, with their labels and texts.

A view is a way to turn a text into token sequences: ``plain`` without the context, ``ctx`` with it,
``context`` the context by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .files import replace_file
from .hdf5 import dataset, open_hdf5
from .output import OutputFile
from .schema import StoreError

VIEWS = ("plain", "ctx", "context")
ROLES = ("prompt", "chosen", "rejected")
NO_ROW = -1
DELETED = "deleted_pairs"  # key of an account: how many pairs were deleted from the table
TEXT_CHUNK = 1024  # strings per HDF5 chunk
TEXT_COLUMNS = (
    "pair_id",
    "prompt_id",
    "attribute",
    "context",
    "user",
    "split",
    "prompt",
    "chosen",
    "rejected",
)


@dataclass(frozen=True)
class PairTable:
    """N preference pairs of one data set.

    Attributes:
        name: Name of the data set and of the table's file.
        request: Fingerprint of the inputs that the table was made from.
        settings: How texts became token sequences, so that ``verify`` can embed a sample again.
        rows: Per ``view/role``, such as ``ctx/chosen``, (N,) global rows of the store; ``NO_ROW``
            where a pair has no vector in that view.
        text: Per name in ``TEXT_COLUMNS``, N strings. A missing attribute, context or user is the
            empty string; a prompt is JSON, a list of ``[role, content]``.
        source_row: (N,) row of the input file.
        pool: (N,) mask of the training pairs from which the labelled budget may be drawn.
        margin: (N,) rating difference of the responses, NaN where the data give none.
        tokens: Per response role, (N,) tokens of the response with its prompt.
        account: Counts of what was read, rejected and left out.
        ratings: Per rated attribute, (N, 2) ratings of chosen and rejected, NaN where missing.
        layout: ``Manifest.layout`` of the shards that ``rows`` refers to; empty in format 1.
    """

    name: str
    request: str
    settings: Mapping[str, Any]
    rows: Mapping[str, np.ndarray]
    text: Mapping[str, list[str]]
    source_row: np.ndarray
    pool: np.ndarray
    margin: np.ndarray
    tokens: Mapping[str, np.ndarray]
    account: Mapping[str, Any]
    ratings: Mapping[str, np.ndarray] = field(default_factory=dict)
    layout: str = ""

    def __len__(self) -> int:
        return len(self.text["pair_id"])


def pairs_path(store: Path, name: str) -> Path:
    """File of the pair table of a data set."""
    return store / "pairs" / f"{name}.h5"


def write_pairs(store: Path, table: PairTable) -> Path:
    """Write or replace a pair table atomically; returns its file.

    The caller must hold the store's lock alone.
    """
    with PairWriter(store, table.name) as writer:
        writer.add_text(table.text)
        return writer.finish(table)


class PairWriter:
    """Writes a pair table whose texts come block by block, so that they need not fit in memory.

    The table replaces an older one of its name when ``finish`` is called. Use the writer as a
    context manager: leaving the block removes the temporary file if the table was not finished.

        with PairWriter(store, table.name) as writer:
            for block in blocks:
                writer.add_text(block)
            writer.finish(table)

    Args:
        store: Directory of the store, whose lock the caller holds alone.
        name: Name of the table.

    ``add_text`` and ``finish`` raise ``OSError`` if the disk is full.
    """

    def __init__(self, store: Path, name: str) -> None:
        self._store, self._path = store, pairs_path(store, name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._output = OutputFile(self._temporary)
        self._file = h5py.File(self._output, "w")
        self._text: dict[str, h5py.Dataset] = {}
        for column in TEXT_COLUMNS:
            self._text[column] = self._file.create_dataset(
                f"text/{column}",
                shape=(0,),
                maxshape=(None,),
                chunks=(TEXT_CHUNK,),
                dtype=h5py.string_dtype("utf-8"),
                track_times=False,
            )

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self._output.close()
        self._temporary.unlink(missing_ok=True)

    def add_text(self, text: Mapping[str, list[str]]) -> None:
        """Append the strings of the next pairs: per name in ``TEXT_COLUMNS``, equally many."""
        for name in TEXT_COLUMNS:
            column = self._text[name]
            start = len(column)
            column.resize((start + len(text[name]),))
            column[start:] = text[name]
        self._output.check()

    def finish(self, table: PairTable) -> Path:
        """Write the rest of the table, all but its ``text``, and move the file to its name."""
        file = self._file
        file.attrs["request"] = table.request
        file.attrs["layout"] = table.layout
        file.attrs["settings"] = json.dumps(table.settings)
        file.attrs["account"] = json.dumps(table.account)
        for key, rows in table.rows.items():
            file.create_dataset(f"rows/{key}", data=rows.astype(np.int64), track_times=False)
        for role, counts in table.tokens.items():
            file.create_dataset(f"tokens/{role}", data=counts.astype(np.int32), track_times=False)
        for number, (attribute, ratings) in enumerate(table.ratings.items()):
            # Numbered, because an attribute's name may contain a slash, which HDF5 would split.
            rated = file.create_dataset(
                f"ratings/{number:04d}", data=ratings.astype(np.float32), track_times=False
            )
            rated.attrs["attribute"] = attribute
        file.create_dataset("source_row", data=table.source_row, track_times=False)
        file.create_dataset("pool", data=table.pool, track_times=False)
        file.create_dataset("margin", data=table.margin.astype(np.float32), track_times=False)
        file.close()
        self._output.check()
        replace_file(self._store, f"pairs/{self._path.name}", self._temporary)
        return self._path


def read_pairs(store: Path, name: str) -> PairTable:
    """Read the pair table of a data set.

    Raises ``StoreError`` if it is damaged, or missing: the message then lists the store's tables.
    """
    path = pairs_path(store, name)
    if not path.is_file():
        known = ", ".join(sorted(table_names(store))) or "none"
        raise StoreError(
            f"{path}: no pair table {name!r} (found: {known}); run micro-rm embed with this "
            "data set, or set data.name to one of those"
        )
    with open_hdf5(path) as file:
        try:
            return PairTable(
                name=name,
                request=str(file.attrs["request"]),
                layout=str(file.attrs.get("layout", "")),  # format 1 had none
                settings=json.loads(str(file.attrs["settings"])),
                rows={
                    f"{view}/{role}": dataset(file, f"rows/{view}/{role}")[:]
                    for view in VIEWS
                    for role in ROLES
                    if f"rows/{view}/{role}" in file
                },
                text={
                    column: list(dataset(file, f"text/{column}").asstr()[:])
                    for column in TEXT_COLUMNS
                },
                source_row=dataset(file, "source_row")[:],
                pool=dataset(file, "pool")[:].astype(bool),
                margin=dataset(file, "margin")[:],
                tokens={role: dataset(file, f"tokens/{role}")[:] for role in ROLES[1:]},
                account=json.loads(str(file.attrs["account"])),
                ratings=_read_ratings(file),
            )
        except (KeyError, json.JSONDecodeError) as error:
            raise StoreError(f"{path}: damaged pair table ({error}); run micro-rm embed") from error


def _read_ratings(file: h5py.File) -> dict[str, np.ndarray]:
    group = file.get("ratings")
    if not isinstance(group, h5py.Group):
        return {}
    columns = [dataset(file, f"ratings/{number}") for number in sorted(group)]
    return {str(column.attrs["attribute"]): column[:] for column in columns}


def read_request(store: Path, name: str) -> str | None:
    """Fingerprint of the inputs of a table, without reading the table; None if it is missing."""
    path = pairs_path(store, name)
    if not path.is_file():
        return None
    with open_hdf5(path) as file:
        return str(file.attrs.get("request"))


def read_layout(store: Path, name: str) -> str:
    """Layout that a table's row indices refer to, without reading the table; empty in format 1."""
    with open_hdf5(pairs_path(store, name)) as file:
        return str(file.attrs.get("layout", ""))


def read_account(store: Path, name: str) -> dict[str, Any]:
    """Account of a table, without reading the table."""
    with open_hdf5(pairs_path(store, name)) as file:
        return json.loads(str(file.attrs["account"]))


def table_names(store: Path) -> list[str]:
    """Names of the pair tables of a store, sorted."""
    return sorted(path.stem for path in (store / "pairs").glob("*.h5"))
