"""A disk of limited size: the job stops cleanly, says what it needs, and goes on with more room.

Needs the right to mount a tmpfs; without it the attack says so and does nothing.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable

from micro_rm.cache.verify import verify_store

from .harness import EXPLAINED, GOOD, Tally, World, attempt, contents

ENOUGH = 1 << 26


def attack_room(world: World, rounds: int, seed: int) -> Tally:
    """Embed on a disk that is too small, make it larger, and embed on."""
    tally, chance = Tally("a disk of limited size"), random.Random(seed)
    place = world.base / "disk"
    place.mkdir(exist_ok=True)
    store = place / "store"
    used = sum(path.stat().st_size for path in world.whole.rglob("*") if path.is_file())
    for trial in range(rounds):
        size = int(chance.uniform(0.02, 1.3) * used)
        if not _mount(place, size):
            tally.counts["skipped: mounting is not allowed here"] += 1
            return tally
        try:
            tally.trials += 1
            # Half of the jobs begin although the room is known to be too small.
            job = world.command(store) if trial % 2 else blind(world.command(store))
            hurt = attempt(job, world.base / "room.log")
            said = f"{size} bytes ({trial})"
            if not hurt.well_behaved:
                tally.problems.append(f"{said}: ended with {hurt.status}: {hurt.said[-700:]}")
            kind = {GOOD: "fitted", EXPLAINED: "stopped with a message"}
            tally.counts[kind.get(hurt.status, "crashed")] += 1
            tally.counts["said how many bytes are needed"] += "bytes are needed" in hurt.said
            sealed = {path.name: path.read_bytes() for path in (store / "shards").glob("*.h5")}
            tally.counts["shards sealed before the end"] += len(sealed)
            _mount(place, ENOUGH, "remount,")
            done = attempt(world.command(store), world.base / "room.log")
            tally.expect(done.status == GOOD, f"{said}: with room: {done.said[-500:]}")
            kept = all((store / "shards" / name).read_bytes() == sealed[name] for name in sealed)
            tally.expect(kept, f"{said}: sealed shards were lost or changed")
            found, whole = contents(store), contents(world.whole)
            differing = [name for name in {*found, *whole} if found.get(name) != whole.get(name)]
            tally.expect(not differing, f"{said}: the store differs in {sorted(differing)}")
            tally.problems += [f"{said}: {problem}" for problem in verify_store(store).problems]
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return tally


def blind(action: Callable[[], int]) -> Callable[[], int]:
    """An action that believes that there is room, as under a quota."""

    def run() -> int:
        from micro_rm.embed import disk_space as space

        space.free_bytes = lambda _store: 1 << 50
        return action()

    return run


def _mount(place: object, size: int, how: str = "") -> bool:
    """Whether a tmpfs of a size could be mounted; sizes are whole pages."""
    if os.geteuid() != 0:
        return False
    options = f"{how}size={max(size, 1 << 15)}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
    )
    return done.returncode == 0
