"""kill -9 at any moment: the same command goes on and ends with the store of an undisturbed run.

Run as a script, this file is the driver: it imports everything once and forks a child per attempt,
so that an attempt costs the job and not the imports.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import file_checksum
from micro_rm.cache.verify import verify_store
from micro_rm.tests.embed.driving import driven_by

SEED = 20
ROWS = 80
# Where a kill strikes: after a share of an undisturbed run's time, as soon as the n-th new file of
# a kind is seen, or inside the child at an exact step of its n-th commit of a kind. No attempt may
# seal more than MOST shards, so that work is left for every kill however fast the machine is. The
# last four strike while the job is finished.
MOST = 6
MOMENTS: tuple[tuple[str, str], ...] = (
    ("step", "plan written"),
    ("step", "plan named"),
    ("step", "move written"),
    ("step", "move named"),
    ("time", ""),
    ("seen", "shards/*.h5"),
    ("step", "shard named"),
    ("time", ""),
    ("seen", "shards/*.tmp"),
    ("step", "shard written"),
    ("seen", "shards/*.h5"),
    ("step", "manifest written"),
    ("step", "table written"),
    ("step", "table named"),
    ("step", "removal written"),
)

pytestmark = pytest.mark.long
Listing = dict[str, tuple[int, str]]
Killed = tuple[Path, list[dict[str, Any]]]
# Imported once, before the forks.
HEAVY = (
    "transformers.models.llama.modeling_llama",
    "micro_rm.configs.command_line",
    "micro_rm.display.embedding",
    "micro_rm.embed.stage",
    "micro_rm.pipeline",
)


def attempt(argv: list[str], step: tuple[str, int] | None = None) -> int:
    """Fork a child that runs the command; with a step it kills itself there."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        from micro_rm.pipeline import main

        if step is not None:
            die_at(*step)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        os._exit(main(argv))
    finally:
        os._exit(70)


def die_at(step: str, count: int) -> None:
    """Die by SIGKILL at the n-th commit of a kind: before the file gets its name, or after.

    A plan is a commit of its own, its move into place another one, and so is its removal.
    """
    kind, _, moment = step.partition(" ")
    left = count

    def dying(honest: Callable[..., Any], kind_of: Callable[[Path], str]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            written = kind_of(Path(arguments[-1]))
            left -= written == kind
            if left == 0 and written == kind and moment == "written":
                os.kill(os.getpid(), signal.SIGKILL)
            result = honest(*arguments, **options)
            if left == 0 and written == kind and moment == "named":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def file_kind(path: Path) -> str:
        return {"shards": "shard", "pairs": "table"}.get(path.parent.name, path.stem)

    os.replace = dying(os.replace, file_kind)
    os.rename = dying(os.rename, lambda path: "move" if path.name == "plan" else "")
    shutil.rmtree = dying(shutil.rmtree, lambda path: "removal" if path.name == "plan" else "")


def wait_and_kill(child: int, store: Path, what: str, count: int, seconds: float) -> int:
    """Kill the child when it has made so many files or run so long; its exit status."""
    start = time.monotonic()
    before = set(store.glob(what))
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        made = len(set(store.glob(what)) - before)
        if made >= count or time.monotonic() - start >= seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(2e-4)  # leave the child its core
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def listing(store: Path) -> Listing:
    """Modification time and checksum of every sealed shard."""
    return {
        path.name: (path.stat().st_mtime_ns, file_checksum(path))
        for path in sorted((store / "shards").glob("*.h5"))
    }


def drive(argv: list[str], base: Path) -> list[dict[str, Any]]:
    """An undisturbed run, then kills and restarts, then a last run to the end."""
    import torch

    for module in HEAVY:
        importlib.import_module(module)
    torch.set_num_threads(1)
    random.seed(SEED)

    def command(name: str) -> list[str]:
        return [*argv, f"--store.dir={base / name}", f"--run.dir={base / name}-run"]

    start = time.monotonic()
    status = os.waitstatus_to_exitcode(os.waitpid(attempt(command("whole")), 0)[1])
    whole = time.monotonic() - start
    log: list[dict[str, Any]] = [{"status": status, "seconds": whole}]
    store = base / "killed"
    for kind, what in (*MOMENTS, ("end", "")):
        count = random.randint(2, 3) if what in ("shards/*.h5", "shard named") else 1
        child = attempt(command("killed"), (what, count) if kind == "step" else None)
        if kind == "seen":
            status = wait_and_kill(child, store, what, count, math.inf)
        elif kind == "time":
            seconds = random.uniform(0.6, 1) * whole
            status = wait_and_kill(child, store, "shards/*.h5", MOST, seconds)
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.append(
            {
                "moment": f"{kind} {what}".strip(),
                "status": status,
                "sealed": listing(store),
                "plans": sorted(path.name for path in store.glob("plan*")),
                "unfinished": len(list(store.rglob("*.tmp"))),
            }
        )
    return log


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory,
    backbone_path: Callable[[str], Path],
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
) -> Killed:
    """Directory with the stores ``whole`` and ``killed``, and the driver's log."""
    base = tmp_path_factory.mktemp("kill")
    rows = write_rows(base / "rows.jsonl", preference_rows(ROWS))
    result = driven_by(__file__, base, rows, backbone_path("llama"), shard=100, bins=100)
    return base, result


def test_every_kill_struck_and_the_last_run_ended_well(killed: Killed) -> None:
    first, *attempts, last = killed[1]
    assert first["status"] == last["status"] == 0
    for entry in attempts:
        assert entry["status"] == -signal.SIGKILL, entry["moment"]
    assert any(entry["unfinished"] for entry in attempts)
    assert (last["plans"], last["unfinished"]) == ([], 0)
    sizes = [len(entry["sealed"]) for entry in attempts]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 6


def test_a_killed_planner_leaves_no_plan_that_is_taken_for_a_whole_one(killed: Killed) -> None:
    plans = {entry["moment"]: entry["plans"] for entry in killed[1][1:]}
    for step in ("plan written", "plan named", "move written"):
        (name,) = plans[f"step {step}"]
        assert name.startswith("plan.")  # with the planner's process id; the next one removes it
    assert plans["step move named"] == ["plan"]
    assert plans["step table named"] == ["plan"]


def test_a_killed_job_ends_with_the_files_of_an_undisturbed_one(killed: Killed) -> None:
    base, _ = killed
    whole, actual = (
        {
            str(path.relative_to(store)): path.read_bytes()
            for path in sorted(store.rglob("*"))
            if path.is_file() and path.name != "writer.lock"
        }
        for store in (base / "whole", base / "killed")
    )
    assert actual == whole
    assert verify_store(base / "killed").problems == []
    keys = FeatureStore(base / "killed").keys().tolist()
    assert len(keys) == len(set(keys)) > 3 * ROWS


def test_no_sealed_shard_was_ever_rewritten(killed: Killed) -> None:
    _, (_, *entries) = killed
    for before, after in itertools.pairwise(entries):
        kept = {name: after["sealed"].get(name) for name in before["sealed"]}
        assert kept == before["sealed"]


if __name__ == "__main__":
    print(json.dumps(drive(json.loads(sys.argv[1]), Path(sys.argv[2]))))
