"""The commands that maintain a store: rebuild, gc, delete and copy.

Each says what it does through ``say``, one line of text per call, asks through ``ask`` before it
removes anything, and returns its facts as JSON-ready values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.console import Say
from .copying import copy_store
from .deletion import Deletion, apply_deletion, plan_deletion
from .lock import StoreLock
from .rebuild import rebuild_manifest
from .removal import Removal, apply_removal, plan_garbage_collection
from .schema import StoreError
from .writer import recover_store

Ask = Callable[[str], bool]  # a yes-or-no question


@contextmanager
def exclusive_access(store: Path, work: str) -> Iterator[None]:
    """Hold the lock of a store alone, after cleaning up what a killed process left behind.

    ``work`` is the name that others are told while they wait. Raises ``StoreError`` if there is no
    store, or if another process is writing to it.
    """
    if not (store / "manifest.json").is_file():
        raise StoreError(f"{store}: no store here (manifest.json is missing)")
    with StoreLock(store) as lock:
        if not lock.acquire():
            raise lock.busy_error()
        lock.announce(work)
        recover_store(store)
        yield


def finish_interrupted(store: Path) -> None:
    """Finish a transaction that was interrupted after its commit, if there is one."""
    if (store / "change").is_dir():
        with exclusive_access(store, "finish a change"):
            pass


def rebuild(store: Path, say: Say) -> dict[str, Any]:
    """Rebuild the manifest from the files of the store; damaged files are set aside."""
    report = rebuild_manifest(store)
    say(
        f"rebuild  {report.shards} shards, {report.vectors:,} vectors, {report.files} other files "
        "listed"
    )
    for text in report.set_aside:
        say(f"aside    {text}")
    for name in report.outdated_tables:
        say(f"rebuild  pair table {name!r} rests on lost shards: run micro-rm embed for it again")
    return asdict(report)


def collect_garbage(store: Path, say: Say, ask: Ask) -> dict[str, Any]:
    """Remove all vectors that no pair table uses, after asking."""
    with exclusive_access(store, "gc"):
        removal = plan_garbage_collection(store)
        facts = _facts(removal)
        if not removal.vectors:
            say("gc       every vector is used by a pair table; nothing to remove")
            return facts | {"done": False}
        say(f"gc       {_describe(removal)} that no pair table uses")
        if not ask("Remove them?"):
            say("gc       nothing was changed; --yes removes them")
            return facts | {"done": False}
        apply_removal(store, removal)
    say(f"gc       removed; micro-rm verify {store} checks what is left")
    return facts | {"done": True}


def delete(
    store: Path, users: Sequence[str], pairs: Sequence[str], say: Say, ask: Ask
) -> dict[str, Any]:
    """Delete all rows of some users and pairs, after asking, and search for leftovers."""
    if not users and not pairs:
        raise StoreError(f"{store}: nothing to delete; give --user NAME or --pair ID")
    with exclusive_access(store, "delete"):
        plan = plan_deletion(store, users, pairs)
        facts = _facts(plan.removal) | {
            "pairs": dict(plan.pairs),
            "refused_rows": plan.refused_rows,
        }
        for line in _plan_lines(plan):
            say(f"delete   {line}")
        if not ask("Delete them?"):
            say("delete   nothing was changed; --yes deletes them")
            return facts | {"done": False}
        proof = apply_deletion(store, plan)
    say(
        f"proof    {proof.files} files searched for {proof.texts:,} texts, {proof.keys:,} keys and "
        f"the names: {len(proof.found)} found"
    )
    say(
        "delete   not touched: the data files (embedding them again brings the rows back), run "
        "directories, copies, what was pushed, and blocks of the disk that are not overwritten yet"
    )
    found = [f"{store}: still there: {text}" for text in proof.found]
    return facts | {"done": True, "proof": asdict(proof), "problems": found}


def copy(store: Path, target: str | None, say: Say) -> dict[str, Any]:
    """Copy a store into another directory and verify the copy."""
    if target is None:
        raise StoreError(f"{store}: copy to where? give --to DIRECTORY")
    finish_interrupted(store)
    verdict = copy_store(store, Path(target))
    say(
        f"copy     {target}: {verdict.shards} shards, {verdict.vectors:,} vectors, "
        f"{verdict.files} other files, every byte read back"
    )
    return {"to": target, "vectors": verdict.vectors, "bytes": verdict.bytes}


def _facts(removal: Removal) -> dict[str, Any]:
    return {
        "vectors": removal.vectors,
        "bytes": removal.bytes,
        "shards_removed": removal.shards_removed,
        "shards_rewritten": removal.shards_rewritten,
    }


def _describe(removal: Removal) -> str:
    return (
        f"{removal.vectors:,} vectors ({removal.bytes:,} bytes; {removal.shards_removed} shards "
        f"go, {removal.shards_rewritten} are written anew)"
    )


def _plan_lines(plan: Deletion) -> Iterator[str]:
    for name, count in plan.pairs.items():
        yield f"{count:,} pairs of table {name!r}"
    if plan.refused_rows:
        yield f"{plan.refused_rows:,} lines of quarantine files"
    yield f"{_describe(plan.removal)} that nobody else's pairs need"
