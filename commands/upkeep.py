"""Maintenance of stores and runs: inspect, verify, gc, delete, copy, push and pull."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.console import Say, say_all
from ..configs.schema import Config
from ..run_dir.files import RECORD

VERIFY_SAMPLE = 32  # sequences of every pair table that verify embeds again
Result = dict[str, Any]


def inspect(config: Config, say: Say) -> Result:
    """Print an overview of a store or a run; returns every detail."""
    from ..cache.draw import draw_store
    from ..cache.inspect import describe_store
    from ..display.run_view import describe_run, draw_run

    path = Path(config.store.dir)
    if _is_run(path):
        description = describe_run(path)
        say_all(say, draw_run(description))
    else:
        description = describe_store(path)
        say_all(say, draw_store(description))
    return description


def _is_run(path: Path) -> bool:
    return (path / RECORD).is_file() and not (path / "manifest.json").is_file()


def verify(config: Config, say: Say) -> Result:
    """Verify every byte of a store or run, and embed a sample of every pair table again."""
    from ..cache.maintenance import finish_interrupted, rebuild
    from ..cache.pairs import read_pairs, table_names
    from ..cache.reader import FeatureStore
    from ..cache.verify import verify_store
    from ..embed.recheck import recheck

    path = Path(config.store.dir)
    if _is_run(path):
        return _verify_run(path, say)
    rebuilt = rebuild(path, say) if config.upkeep.rebuild else {}
    finish_interrupted(path)
    verdict = verify_store(path)
    say(
        f"verify   {verdict.shards} shards, {verdict.vectors:,} vectors, {verdict.bytes:,} bytes, "
        f"{verdict.files} other files, {verdict.pair_tables} pair tables: "
        f"{len(verdict.problems)} problems"
    )
    for note in verdict.notes:
        say(f"note     {note}")
    result: Result = asdict(verdict) | {"recheck": {}} | ({"rebuilt": rebuilt} if rebuilt else {})
    if not verdict.problems:
        store = FeatureStore(path)
        for name in table_names(path):
            check = recheck(
                store,
                read_pairs(path, name),
                size=VERIFY_SAMPLE,
                seed=config.run.seed,
                settings=config.embed,
            )
            head = "" if check.head_error is None else f", reward head {check.head_error:.1e}"
            say(
                f"verify   {name}: {check.sequences} sequences embedded again, largest relative "
                f"error {check.largest_error:.1e}{head}"
            )
            result["recheck"][name] = asdict(check)
            result["problems"] += [f"{name}: {problem}" for problem in check.problems]
    for problem in result["problems"]:
        say(f"problem  {problem}")
    return result


def _verify_run(run: Path, say: Say) -> Result:
    """Verify the checksums of a run directory against its record."""
    from ..run_dir.files import verify_run

    files, problems, notes = verify_run(run)
    say(f"verify   {files} files of a run: {len(problems)} problems")
    say_all(say, [f"note     {note}" for note in notes])
    say_all(say, [f"problem  {problem}" for problem in problems])
    return {"files": files, "problems": problems, "notes": notes}


def clean(name: str, config: Config, say: Say, *, quiet: bool) -> Result:
    """Run the command ``name``: gc, delete or copy.

    gc and delete ask for confirmation on a terminal, unless ``upkeep.yes`` is set; without a
    terminal or with ``quiet`` they do nothing unless it is.
    """
    from ..cache import maintenance as upkeep

    def ask(question: str) -> bool:
        if config.upkeep.yes or quiet or not sys.stdin.isatty():
            return config.upkeep.yes
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    store, wanted = Path(config.store.dir), config.upkeep
    if name == "gc":
        return upkeep.collect_garbage(store, say, ask)
    if name == "delete":
        return upkeep.delete(store, wanted.users, wanted.pairs, say, ask)
    return upkeep.copy(store, wanted.to, say)


def push(config: Config, say: Say) -> Result:
    """Verify the store and upload it to the hub."""
    from ..embed.hub import push_store

    address = push_store(Path(config.store.dir), config.share)
    say(f"push     {config.store.dir} verified and uploaded: {address}")
    return {"commit": address}


def pull(config: Config, say: Say) -> Result:
    """Download a store from the hub and verify it."""
    from ..embed.hub import pull_store

    commit = pull_store(Path(config.store.dir), config.share)
    say(f"pull     {config.share.repo} at {commit} verified: {config.store.dir}")
    return {"commit": commit}
