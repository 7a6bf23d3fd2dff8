"""A change of several files of a store that happens as a whole or not at all.

What is new is written into ``change.new/``, together with a list of what goes. Renaming that
directory to ``change/`` is the commit; from then on the change is carried out, by whoever gets
there: every step may be repeated.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ..common.files import sync_directory, write_json
from .manifest import FILE_NAME
from .manifest import SHARD_NAME as SHARD
from .schema import StoreError, transaction_path

LIST = "change.json"


class Transaction:
    """Files of a store to be added, replaced and removed together; the caller holds the store.

    Use it as a context manager: what was not committed leaves no trace.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._new = store / "change.new"
        self._names: list[str] = []

    def __enter__(self) -> Self:
        finish_transaction(self.store)
        self._new.mkdir()
        return self

    def __exit__(self, *_error: object) -> None:
        shutil.rmtree(self._new, ignore_errors=True)

    @property
    def directory(self) -> Path:
        """A store of its own for what is new: writers of stores can write into it."""
        return self._new

    def commit(self, removed: Sequence[str]) -> None:
        """Put everything that was written in its place and remove other files, by name."""
        files = [path for path in sorted(self._new.rglob("*")) if path.is_file()]
        names = [str(path.relative_to(self._new)) for path in files]
        write_json(self._new / LIST, {"placed": names, "removed": list(removed)})
        for folder in {path.parent for path in files}:
            sync_directory(folder)
        os.rename(self._new, transaction_path(self.store))
        sync_directory(self.store)
        finish_transaction(self.store)


def finish_transaction(store: Path) -> bool:
    """Carry out a change that was committed, drop one that was not; whether there was one.

    The caller holds the store alone. Raises ``StoreError`` for a list that names what no change
    may touch.
    """
    shutil.rmtree(store / "change.new", ignore_errors=True)
    place = transaction_path(store)
    if not place.is_dir():
        return False
    if (place / LIST).is_file():
        placed, removed = _read_list(place / LIST)
        folders = {store}
        for name in placed:
            target = store / name
            target.parent.mkdir(exist_ok=True)
            if (place / name).is_file():
                os.replace(place / name, target)
            folders.add(target.parent)
        for name in removed:
            (store / name).unlink(missing_ok=True)
            folders.add((store / name).parent)
        for folder in folders:
            sync_directory(folder)
        # The list last: without it there is nothing left to do.
        (place / LIST).unlink()
    shutil.rmtree(place)
    sync_directory(store)
    return True


def _read_list(path: Path) -> tuple[list[str], list[str]]:
    try:
        raw = json.loads(path.read_text("utf-8"))
        placed, removed = list(raw["placed"]), list(raw["removed"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: damaged list of a change ({error}); restore the store from a copy"
        ) from error
    for name in (*placed, *removed):
        if not _may_change(name):
            raise StoreError(
                f"{path}: expected files of a store, found {str(name)[:80]!r}; do not trust this "
                "directory"
            )
    # The manifest goes last of what is placed: it vouches for the others.
    return sorted(placed, key=lambda name: name == "manifest.json"), removed


def _may_change(name: object) -> bool:
    if not isinstance(name, str):
        return False
    folder, _, file = name.partition("/")
    shard = folder == "shards" and SHARD.fullmatch(file) is not None
    return shard or name == "manifest.json" or FILE_NAME.fullmatch(name) is not None
