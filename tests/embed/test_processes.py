"""Several real processes over one store: the same bytes as one process, whoever does what.

Run as a script, this file is the driver: it imports everything once and forks a child per process,
so that a process costs its job and not the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.pairs import read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.verify import verify_store
from micro_rm.tests.embed.driving import driven_by

pytestmark = pytest.mark.long

ROWS = 60
# Per store the processes that work on it, one after the other or all at once.
ONE_BY_ONE = {"whole": ["0/1"], "parts": ["0/3", "1/3", "2/3"]}
AT_ONCE = {"parallel": ["0/3", "1/3", "2/3"], "twice": ["0/1", "0/1"], "overlap": ["0/1", "1/2"]}
HEAVY = (
    "transformers.models.llama.modeling_llama",
    "micro_rm.configs.command_line",
    "micro_rm.display.embedding",
    "micro_rm.embed.stage",
    "micro_rm.pipeline",
)
Reports = list[dict[str, Any]]
Driven = tuple[Path, dict[str, Reports]]


def begin(argv: list[str], output: Path) -> int:
    """Fork a child that runs the command and prints into a file; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        from micro_rm.pipeline import main

        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        status = main(argv)
        sys.stdout.flush()
        os._exit(status)
    finally:
        os._exit(70)


def report(child: int, output: Path) -> dict[str, Any]:
    """How a child ended, and what it printed."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = Path(f"{output}.out").read_text()
    return {
        "status": status,
        "facts": json.loads(printed) if status == 0 else None,
        "said": Path(f"{output}.err").read_text(),
    }


def drive(argv: list[str], base: Path) -> dict[str, Reports]:
    """All the processes of all the stores."""
    import torch

    for module in HEAVY:
        importlib.import_module(module)
    torch.set_num_threads(1)
    reports: dict[str, Reports] = {}
    for name, parts in (ONE_BY_ONE | AT_ONCE).items():
        running: list[tuple[int, Path]] = []
        reports[name] = []
        for number, part in enumerate(parts):
            command = [*argv, f"--store.dir={base / name}", f"--embed.shards={part}"]
            output = base / f"{name}-{number}"
            running.append((begin([*command, f"--run.dir={base / 'run'}"], output), output))
            if name in ONE_BY_ONE:
                reports[name].append(report(*running.pop()))
        reports[name] += [report(*process) for process in running]
    return reports


@pytest.fixture(scope="module")
def driven(
    tmp_path_factory: pytest.TempPathFactory,
    backbone_path: Callable[[str], Path],
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
) -> Driven:
    """Directory with all the stores, and what their processes reported."""
    base = tmp_path_factory.mktemp("processes")
    rows = write_rows(base / "rows.jsonl", preference_rows(ROWS))
    result = driven_by(__file__, base, rows, backbone_path("llama"), shard=300, bins=256)
    return base, result


def files(store: Path) -> dict[str, bytes]:
    """Shards, pair table, quarantine and manifest."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def test_every_process_ends_well_and_the_store_of_one_is_whole(driven: Driven) -> None:
    base, reports = driven
    for report in (report for name in reports for report in reports[name]):
        assert report["status"] == 0, report["said"]
    assert verify_store(base / "whole").problems == []
    assert len(read_pairs(base / "whole", "rows")) == ROWS
    (only,) = reports["whole"]
    assert only["facts"]["new_sequences"] == len(FeatureStore(base / "whole"))


@pytest.mark.parametrize("name", ["parts", *AT_ONCE])
def test_many_processes_leave_byte_for_byte_what_one_leaves_and_compute_no_token_twice(
    name: str, driven: Driven
) -> None:
    base, reports = driven
    whole = files(base / "whole")
    assert len([path for path in whole if path.startswith("shards/")]) > 6
    assert files(base / name) == whole
    (only,) = reports["whole"]
    done = sum(report["facts"]["computed_tokens"] for report in reports[name])
    assert done == only["facts"]["tokens"] == only["facts"]["computed_tokens"]
    accounts = [report["facts"]["account"] for report in reports[name]]
    assert any(account is not None for account in accounts)
    assert all(account in (None, only["facts"]["account"]) for account in accounts)


def test_the_last_of_the_parts_gives_the_account(driven: Driven) -> None:
    first, second, last = (report["facts"] for report in driven[1]["parts"])
    assert first["account"] is second["account"] is None
    assert first["pending_shards"] > second["pending_shards"] > last["pending_shards"] == 0
    assert last["account"]["pairs"] == ROWS


if __name__ == "__main__":
    print(json.dumps(drive(json.loads(sys.argv[1]), Path(sys.argv[2]))))
