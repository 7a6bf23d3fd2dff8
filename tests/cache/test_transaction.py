"""A transaction happens completely or not at all, wherever the process dies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache import transaction as module
from micro_rm.cache.maintenance import collect_garbage, exclusive_access
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import write_pairs
from micro_rm.cache.schema import StoreError, transaction_path
from micro_rm.cache.transaction import Transaction, finish_transaction
from micro_rm.cache.verify import verify_store
from micro_rm.tests.cache.stores import make_store, make_table


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three shards of which a table uses a part of the first and all of the last."""
    make_store(tmp_path / "store", (4, 3, 2))
    write_pairs(tmp_path / "store", make_table([1, 3, 7, 8]))
    return tmp_path / "store"


def content(store: Path) -> dict[str, bytes]:
    files = (path for path in sorted(store.rglob("*")) if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.mark.long
def test_a_death_at_any_call_leaves_the_store_as_before_or_as_after(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed at every rename, removal and sync of a gc in turn."""
    before = content(store)
    whole = tmp_path / "whole"
    shutil.copytree(store, whole)
    collect_garbage(whole, print, lambda _: True)
    after = content(whole)
    after.pop("writer.lock")
    assert after.keys() != before.keys()

    calls = {"left": 0}

    def dying(honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return honest(*arguments, **options)

        return call

    seen = set()
    for number in range(200):
        victim = tmp_path / f"victim{number}"
        shutil.copytree(store, victim)
        calls["left"] = number
        with monkeypatch.context() as patch:
            # A killed process does not clean up, so the clean-up calls die too.
            patch.setattr(module.shutil, "rmtree", dying(shutil.rmtree))
            for name in ("rename", "replace", "fsync", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                collect_garbage(victim, print, lambda _: True)
                finished = True
            except Killed:
                finished = False
        committed = transaction_path(victim).exists()
        if committed:
            with pytest.raises(StoreError, match="was interrupted; micro-rm verify"):
                read_manifest(victim)
        with exclusive_access(victim, "recovery"):
            pass
        state = content(victim)
        state.pop("writer.lock")
        seen.add("after" if state == after else "")
        if state != after:
            assert state == before and not committed and not finished
        assert verify_store(victim).problems == []
        shutil.rmtree(victim)
        if finished:
            break
    else:
        pytest.fail("gc makes more calls than were tried")
    assert number > 10 and seen == {"after", ""}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("placed", "../outside"),
        ("removed", "../outside"),
        ("removed", "shards/../../x.h5"),
        ("placed", "shards/x.h5"),
        ("removed", 3),
    ],
)
def test_a_transaction_cannot_reach_out_of_the_store(
    kind: str, name: Any, store: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    transaction_path(store).mkdir()
    raw = {"placed": [], "removed": []} | {kind: [name]}
    (transaction_path(store) / "change.json").write_text(json.dumps(raw))
    with pytest.raises(StoreError, match="expected files of a store"):
        finish_transaction(store)
    assert outside.read_text() == "precious"


def test_a_transaction_that_is_not_committed_leaves_no_trace(store: Path) -> None:
    before = content(store)
    with pytest.raises(ZeroDivisionError), Transaction(store) as transaction:
        (transaction.directory / "pairs").mkdir()
        (transaction.directory / "pairs" / "x.h5").write_bytes(b"half")
        raise ZeroDivisionError
    assert content(store) == before
