"""``make stress``: every attack at full length, and a table of what happened.

``python -m micro_rm.tools.stress [--scale 0.1] [--only kills,faults] [--seed 0] [--json]``. Exits
with 1 if anything was lost, went undetected or ended without a message.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Attacks, and their rounds at full length.
ROUNDS = {
    "kills": (100,),
    "faults": (120,),
    "sizes": (40,),
    "room": (40,),
    "writers": (30,),
    "readers": (6,),
    "manifests": (500,),
    "rows": (500,),
    "yaml": (300,),
    "headers": (500,),
    "upkeep": (60,),
    "learning": (24,),
    "bytes": (1000, 200),
}
# These need a run, which costs compilation.
WITH_RUN = ("learning", "bytes")
# As many kills are worth a job of their own, with more shards.
MANY = 10


def main() -> int:
    """Run the attacks; the exit status says whether everything held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full length")
    parser.add_argument("--only", default=",".join(ROUNDS), help="attacks, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="micro-rm-stress-") as base:
        tallies = run_attacks(Path(base), asked.only.split(","), asked.scale, asked.seed)
    if asked.json:
        print(json.dumps([vars(tally) for tally in tallies], indent=2))
    else:
        print(table(tallies))
    return int(any(tally.problems for tally in tallies))


def run_attacks(base: Path, names: list[str], scale: float, seed: int) -> list[Any]:
    """The tallies of the attacks; ``base`` is an empty directory on a file system to test."""
    # Threads of the tokenizers do not survive a fork; embedding asks for them unless told.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    import torch

    from . import company, corruption, faults, fuzz, harness, kills, room, upkeep

    attacks: dict[str, Callable[..., Any]] = {
        "kills": kills.attack_kills,
        "faults": faults.attack_embedding,
        "sizes": faults.attack_sizes,
        "room": room.attack_room,
        "writers": company.attack_with_writers,
        "readers": company.attack_with_readers,
        "manifests": fuzz.attack_manifests,
        "rows": fuzz.attack_rows,
        "yaml": fuzz.attack_settings,
        "headers": fuzz.attack_headers,
        "upkeep": upkeep.attack_upkeep,
        "learning": faults.attack_learning,
        "bytes": corruption.attack_bytes,
    }
    learn = any(name in WITH_RUN for name in names)
    harness.preload(*(["micro_rm.heads.stages"] if learn else []))
    torch.set_num_threads(1)
    small = harness.build_world(base / "small", 24, shard_tokens=200)
    if learn:
        harness.build_run(small)
    tallies = []
    for name in names:
        rounds = [max(1, round(scale * count)) for count in ROUNDS[name]]
        world = small
        if name == "kills" and rounds[0] >= MANY:
            world = harness.build_world(base / "large", 80, shard_tokens=300)
        tallies.append(harness.timed(attacks[name], world, *rounds, seed))
        last = tallies[-1]
        print(f"{name}: {last.trials} trials, {len(last.problems)} problems", file=sys.stderr)
    return tallies


def table(tallies: list[Any]) -> str:
    """What was done, what happened and what went wrong, as text."""
    lines = [f"{'attack':<42}{'trials':>7}{'seconds':>9}{'problems':>10}"]
    for tally in tallies:
        lines.append(
            f"{tally.name:<42}{tally.trials:>7,}{tally.seconds:>9,.0f}{len(tally.problems):>10}"
        )
        lines += [
            f"    {count:>9,}  {what}" for what, count in sorted(tally.counts.items()) if count
        ]
    for tally in tallies:
        lines += [f"PROBLEM  {tally.name}: {problem}" for problem in tally.problems]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
