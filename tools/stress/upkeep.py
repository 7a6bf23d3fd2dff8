"""System calls that fail in gc, delete and copy: the store stays right, and the end is the same."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from micro_rm.cache.pairs import read_pairs

from .faults import ERRORS, count_calls, failing, hurt
from .harness import EXPLAINED, GOOD, Tally, World, attempt, contents, explained, write_rows


def attack_upkeep(world: World, rounds: int, seed: int) -> Tally:
    """Let one call of each command fail, verify, and give the same command again."""
    tally, chance = Tally("system calls that fail in gc, delete, copy"), random.Random(seed)
    start = _with_unused(world)
    store, copied = world.base / "kept", world.base / "copied"
    pair = read_pairs(start, "rows").text["pair_id"][0]
    wishes: dict[str, dict[str, Any]] = {
        "gc": {"yes": True},
        "delete": {"yes": True, "pairs": [pair]},
        "copy": {"to": str(copied)},
    }
    jobs = {name: upkeep(world, store, name, wish) for name, wish in wishes.items()}
    totals, wholes = {}, {}
    for name, job in jobs.items():
        _fresh(start, store, copied)
        totals[name] = count_calls(job, world, world.base)
        wholes[name] = _left(store, copied)
    # In every command the calls are spread over all that it makes.
    each = -(-rounds // len(jobs))
    for trial in range(rounds):
        name = sorted(jobs)[trial % len(jobs)]
        part = (trial // len(jobs) + chance.random()) / each
        number = 1 + int(part * totals[name])
        code = ERRORS[trial % len(ERRORS)]
        said = f"{name}: call {number} of {totals[name]}, {errno.errorcode[code]}"
        _fresh(start, store, copied)
        hurt(failing(jobs[name], world.base, number, code), world, tally, said)
        verified = attempt(world.command(store, "verify"), world.base / "fault.log")
        tally.expect(verified.status == GOOD, f"{said}: then verify says {verified.said[-500:]}")
        again = attempt(jobs[name], world.base / "fault.log")
        # What was done all the same finds nothing to delete, or the copy in its place.
        well = again.status == GOOD or (name != "gc" and again.status == EXPLAINED)
        tally.expect(well, f"{said}: the same command again: {again.said[-500:]}")
        found = _left(store, copied)
        whole = wholes[name]
        differing = sorted(key for key in {*found, *whole} if found.get(key) != whole.get(key))
        tally.expect(not differing, f"{said}: differs in {differing}")
    for place in (start, store, copied):
        shutil.rmtree(place, ignore_errors=True)
    return tally


def upkeep(world: World, store: Path, name: str, wish: dict[str, Any]) -> Callable[[], int]:
    """A command that looks after a store, for a child."""
    options, config = world.config(store, name)
    config = replace(config, upkeep=replace(config.upkeep, **wish))

    def run() -> int:
        from micro_rm.pipeline import execute

        return 1 if execute(options, config, lambda _: None).get("problems") else 0

    return explained(run)


def _with_unused(world: World) -> Path:
    """A store whose table was made anew from other data: half of its vectors serve nobody."""
    start, other = world.base / "unused", world.base / "unused.jsonl"
    shutil.copytree(world.whole, start)
    write_rows(other, 24, "sea")
    done = attempt(world.command(start, "embed", f"--data.train={other}"), world.base / "fault.log")
    if done.status != GOOD:
        raise RuntimeError(f"embedding other data failed: {done.said}")
    return start


def _fresh(start: Path, store: Path, copied: Path) -> None:
    for place in (store, copied):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(start, store)


def _left(store: Path, copied: Path) -> dict[str, str]:
    """Everything that the commands leave behind."""
    found = {f"store/{name}": value for name, value in contents(store).items()}
    if copied.is_dir():
        found |= {f"copy/{name}": value for name, value in contents(copied).items()}
    return found
