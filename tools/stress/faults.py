"""System calls that fail: after any one of them the same command ends with the same bytes.

The n-th call on a file of the store or the run fails, for every kind of call and error. What HDF5,
NumPy and safetensors write from C is reached by a limit on file sizes instead.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from micro_rm.cache.verify import verify_store

from .harness import EXPLAINED, GOOD, Tally, World, attempt, contents, explained

CALLS = ("open", "pwrite", "fsync", "replace", "rename", "ftruncate", "unlink", "mkdir", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT)
# Of a run directory: what says when and how long, and what is drawn from it.
UNSTEADY = ("record.json", "report.json", "report.html")


def attack_embedding(world: World, rounds: int, seed: int) -> Tally:
    """Let one system call of an embedding job fail."""
    tally, chance = Tally("system calls that fail while embedding"), random.Random(seed)
    store = world.base / "faulty"
    total = count_calls(world.command(store), world, store)
    shutil.rmtree(store)
    # Spread over all calls, so that a short version reaches every phase too.
    for trial in range(rounds):
        number = 1 + int((trial + chance.random()) * total / rounds)
        code = ERRORS[trial % len(ERRORS)]
        job = failing(world.command(store), store, number, code)
        _attack(job, world, store, tally, f"call {number} of {total}, {errno.errorcode[code]}")
    return tally


def attack_sizes(world: World, rounds: int, seed: int) -> Tally:
    """Allow no file beyond a size: what is written from C fails as on a full disk or quota."""
    tally, chance = Tally("files that may not grow while embedding"), random.Random(seed)
    store = world.base / "small"
    for trial in range(rounds):
        size = int(2 ** chance.uniform(6, 19))
        job = limited(world.command(store), size)
        _attack(job, world, store, tally, f"no file beyond {size} bytes ({trial})")
    return tally


def attack_learning(world: World, rounds: int, seed: int) -> Tally:
    """Let one system call of train, adapt, evaluate or report fail; the run ends as if nothing."""
    tally, chance = Tally("system calls that fail while learning"), random.Random(seed)
    store = world.base / "learnt"
    run = Path(f"{store}-run")
    shutil.copytree(world.whole, store)
    learn = world.command(store, "run")
    total = count_calls(learn, world, run)
    whole = _steady(run)
    for trial in range(rounds):
        shutil.rmtree(run)
        number = 1 + int((trial + chance.random()) * total / rounds)
        code = ERRORS[trial % len(ERRORS)]
        said = f"call {number} of {total}, {errno.errorcode[code]}"
        hurt(failing(learn, run, number, code), world, tally, said)
        done = attempt(learn, world.base / "fault.log")
        tally.expect(done.status == GOOD, f"{said}: the next run failed: {done.said[-500:]}")
        found = _steady(run)
        differing = [name for name in {*found, *whole} if found.get(name) != whole.get(name)]
        tally.expect(not differing, f"{said}: the run differs in {differing}")
    shutil.rmtree(run)
    shutil.rmtree(store)
    return tally


def failing(
    action: Callable[[], int], top: Path, number: int, code: int, counter: list[int] | None = None
) -> Callable[[], int]:
    """An action whose n-th system call on a file below ``top`` fails, for a child."""

    def run() -> int:
        made = 0

        def hooked(honest: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal made
                if _concerns(arguments, top, name):
                    made += 1
                    if counter is not None:
                        counter[0] = made
                    if made == number:
                        raise OSError(code, os.strerror(code), _named(arguments[0]))
                return honest(*arguments, **options)

            return call

        for name in CALLS:
            setattr(os, name, hooked(getattr(os, name), name))
        io.open = hooked(io.open, "open")
        builtins.open = io.open
        return action()

    return run


def limited(action: Callable[[], int], size: int) -> Callable[[], int]:
    """An action that may not write beyond a size of file; what it says of that is not limited."""
    bare: Callable[[], int] = getattr(action, "__wrapped__")  # noqa: B009

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            return bare()
        finally:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )

    return explained(run)


def _named(place: Any) -> str:
    """The path behind the first argument of a call."""
    if isinstance(place, int):
        return os.readlink(f"/proc/self/fd/{place}")
    return os.fspath(place) if isinstance(place, str | os.PathLike) else ""


def _concerns(arguments: tuple[Any, ...], top: Path, name: str) -> bool:
    """Whether a call is about the store or the run; opening to read is not about writing."""
    if name == "open" and len(arguments) < 2:
        return False
    try:
        found = _named(arguments[0])
    except (OSError, IndexError):
        return False
    return found == str(top) or found.startswith(f"{top}/")


def count_calls(action: Callable[[], int], world: World, top: Path) -> int:
    """How many calls an undisturbed action makes."""
    counter = [0]

    def run() -> list[int]:
        status = failing(action, top, -1, 0, counter)()
        return [status, counter[0]]

    done = attempt(run, world.base / "count.log", seconds=300)
    if not done.result or done.result[0] != GOOD:
        raise RuntimeError(f"counting the calls failed: {done.said}")
    return done.result[1]


def hurt(job: Callable[[], int], world: World, tally: Tally, said: str) -> None:
    """Run a job that something happens to; it works or explains itself."""
    tally.trials += 1
    end = attempt(job, world.base / "fault.log")
    kind = {GOOD: "went on all the same", EXPLAINED: "stopped with a message"}
    tally.counts[kind.get(end.status, "crashed")] += 1
    tally.counts["said how many bytes are needed"] += "bytes are needed to finish" in end.said
    if not end.well_behaved:
        tally.problems.append(f"{said}: ended with {end.status}: {end.said[-700:]}")


def _attack(job: Callable[[], int], world: World, store: Path, tally: Tally, said: str) -> None:
    """Hurt a job, then run it to its end; compare with the undisturbed store."""
    hurt(job, world, tally, said)
    done = attempt(world.command(store), world.base / "fault.log")
    tally.expect(done.status == GOOD, f"{said}: the next run failed: {done.said[-500:]}")
    found, whole = contents(store), contents(world.whole)
    differing = sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
    tally.expect(not differing, f"{said}: the store differs in {differing}")
    tally.problems += [f"{said}: {problem}" for problem in verify_store(store).problems]
    shutil.rmtree(store)


def _steady(run: Path) -> dict[str, str]:
    return {name: value for name, value in contents(run).items() if name not in UNSTEADY}
