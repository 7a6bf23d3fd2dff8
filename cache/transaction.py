"""Change several files of a store atomically.

New files are written into ``change.new/``, together with a list of files to place and to remove.
Renaming that directory to ``change/`` commits. From then on the transaction is rolled forward, by
this process or by the next one that locks the store; each step is idempotent, so that a crash
in the middle does no harm.
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
    """Adds, replaces and removes files of a store in one step, at ``commit``.

    Use it as a context manager while holding the store's lock alone: leaving the block without a
    commit discards everything. Entering it finishes an earlier transaction that was interrupted.
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
        """Where to write new files; laid out like a store, so that its writers work here too."""
        return self._new

    def commit(self, removed: Sequence[str]) -> None:
        """Move the files in ``directory`` into the store and remove others.

        ``removed`` names them relative to the store.
        """
        files = [path for path in sorted(self._new.rglob("*")) if path.is_file()]
        names = [str(path.relative_to(self._new)) for path in files]
        write_json(self._new / LIST, {"placed": names, "removed": list(removed)})
        for folder in {path.parent for path in files}:
            sync_directory(folder)
        os.rename(self._new, transaction_path(self.store))
        sync_directory(self.store)
        finish_transaction(self.store)


def finish_transaction(store: Path) -> bool:
    """Roll a committed transaction forward and discard an uncommitted one.

    The caller must hold the store's lock alone.

    Returns:
        Whether there was a committed transaction.

    Raises:
        StoreError: The list of files is damaged, or names one that no transaction may touch.
    """
    shutil.rmtree(store / "change.new", ignore_errors=True)
    directory = transaction_path(store)
    if not directory.is_dir():
        return False
    if (directory / LIST).is_file():
        placed, removed = _read_list(directory / LIST)
        folders = {store}
        for name in placed:
            target = store / name
            target.parent.mkdir(exist_ok=True)
            if (directory / name).is_file():  # else it was moved before a crash
                os.replace(directory / name, target)
            folders.add(target.parent)
        for name in removed:
            (store / name).unlink(missing_ok=True)
            folders.add((store / name).parent)
        for folder in folders:
            sync_directory(folder)
        # The list goes last: without it there is nothing left to do but to remove the directory.
        (directory / LIST).unlink()
    shutil.rmtree(directory)
    sync_directory(store)
    return True


def _read_list(path: Path) -> tuple[list[str], list[str]]:
    """Names of the files to place, in the order to place them, and of those to remove."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        placed, removed = list(raw["placed"]), list(raw["removed"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: damaged list of a change ({error}); restore the store from a copy"
        ) from error
    for name in (*placed, *removed):
        if not _is_store_file(name):
            raise StoreError(
                f"{path}: expected files of a store, found {str(name)[:80]!r}; do not trust this "
                "directory"
            )
    # The manifest is placed last, because it lists the others.
    return sorted(placed, key=lambda name: name == "manifest.json"), removed


def _is_store_file(name: object) -> bool:
    """Whether a name is that of a file of a store, so that it cannot lead out of it."""
    if not isinstance(name, str):
        return False
    folder, _, file = name.partition("/")
    shard = folder == "shards" and SHARD.fullmatch(file) is not None
    return shard or name == "manifest.json" or FILE_NAME.fullmatch(name) is not None
