"""kill -9 at random moments: nothing sealed is lost, nothing stored twice, little done again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from micro_rm.cache.schema import file_checksum
from micro_rm.cache.verify import verify_store

from .harness import GOOD, Tally, World, attempt, contents, ended, start


def attack_kills(world: World, rounds: int, seed: int) -> Tally:
    """Kill so many embedding jobs; whenever one gets through, compare and begin a new store."""
    tally, chance = Tally("kill -9 of an embedding job"), random.Random(seed)
    store, diary = world.base / "killed", world.base / "diary"
    began = time.monotonic()
    timed_run = attempt(logged(world, world.base / "timed", diary), world.base / "timed.log")
    whole = time.monotonic() - began
    tally.expect(timed_run.status == GOOD, f"an undisturbed job failed: {timed_run.said}")
    shard_tokens = Counter[int]()
    for shard, tokens in entries(diary):
        shard_tokens[shard] += tokens
    most = max(shard_tokens.values())
    diary.unlink()
    kills_here = 0
    while tally.trials < rounds:
        before = sealed(store)
        noted = len(entries(diary))
        child = start(logged(world, store, diary), world.base / "killed.log")
        lasted = _kill(child, chance.uniform(0.1, 1.0) * whole)
        # A machine is not always as busy as it was when the job was timed.
        whole = whole if lasted is None else (whole + lasted) / 2
        status = ended(child, world.base / "killed.log").status
        after = sealed(store)
        lost = [name for name in before if after.get(name) != before[name]]
        tally.expect(not lost, f"sealed shards were lost or changed: {lost}")
        tally.counts["sealed shards seen before kills"] += len(before)
        if status == -signal.SIGKILL:
            tally.trials += 1
            kills_here += 1
            unsealed = Counter[int]()
            for shard, tokens in entries(diary)[noted:]:
                unsealed[shard] += tokens * (f"{shard:06d}.h5" not in after)
            gone = sum(unsealed.values())
            tally.counts["tokens that a kill cost, at most"] = max(
                gone, tally.counts["tokens that a kill cost, at most"]
            )
            tally.expect(gone <= most, f"a kill cost {gone} tokens, a shard has {most}")
            tally.counts["kills that left a plan"] += (store / "plan").exists()
            tally.counts["kills that left unfinished files"] += any(store.rglob("*.tmp"))
            if tally.trials < rounds:
                continue
        _finish(world, store, diary, tally, shard_tokens, kills_here, most)
        kills_here = 0
    return tally


def logged(world: World, store: Path, diary: Path) -> Callable[[], int]:
    """The job, which notes shard and tokens of every forward pass before it is done."""
    job = world.command(store)

    def run() -> int:
        from micro_rm.embed import shard_loop as extract

        honest = extract.embed_bins
        descriptor = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def embed_bins(backbone, plan, shard, *more):
            for tokens, vectors in honest(backbone, plan, shard, *more):
                os.write(descriptor, f"{shard} {tokens}\n".encode())
                yield tokens, vectors

        extract.embed_bins = embed_bins
        return job()

    return run


def entries(diary: Path) -> list[tuple[int, int]]:
    """Shard and tokens of every pass that was noted."""
    lines = diary.read_text().split("\n")[:-1] if diary.is_file() else []
    return [(int(shard), int(tokens)) for shard, tokens in (line.split() for line in lines)]


def sealed(store: Path) -> dict[str, tuple[int, str]]:
    """Time and checksum of every sealed shard."""
    return {
        path.name: (path.stat().st_mtime_ns, file_checksum(path))
        for path in sorted((store / "shards").glob("*.h5"))
    }


def _kill(child: int, seconds: float) -> float | None:
    """Kill a child after so many seconds; the seconds that it took if it ended before."""
    began = time.monotonic()
    while (lasted := time.monotonic() - began) < seconds:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return lasted
        time.sleep(1e-3)
    os.kill(child, signal.SIGKILL)
    return None


def _finish(
    world: World,
    store: Path,
    diary: Path,
    tally: Tally,
    expected: Counter[int],
    kills: int,
    most: int,
) -> None:
    """Let the job end; compare with the undisturbed store, and count what was done twice."""
    done = attempt(logged(world, store, diary), world.base / "killed.log")
    tally.expect(done.status == GOOD, f"the last run failed: {done.said}")
    found, whole = contents(store), contents(world.whole)
    differing = sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
    tally.expect(not differing, f"the store differs from an undisturbed one in {differing}")
    tally.problems += verify_store(store).problems
    computed = sum(tokens for _, tokens in entries(diary))
    again = computed - sum(expected.values())
    tally.counts["stores finished"] += 1
    tally.counts["tokens done again"] += again
    tally.counts["tokens of a shard, at most"] = most
    tally.expect(again >= 0, f"{-again} tokens were never computed")
    tally.counts["most kills of one store"] = max(kills, tally.counts["most kills of one store"])
    diary.unlink()
    shutil.rmtree(store)
