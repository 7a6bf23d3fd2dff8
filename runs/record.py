"""The run record: what was run, on what, with which versions and seeds, and how long it took."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ..common.cores import available_cores
from ..common.files import write_json
from ..common.redact import redact_all
from ..configs.schema import Config
from .files import RECORD as FILE
from .files import file_problem, seal, stats_of, updated

Guard = Callable[[], AbstractContextManager[Any]]
PACKAGES = ("micro-rm", "jax", "flax", "optax", "numpy", "h5py", "torch", "transformers")


class RunRecord:
    """``record.json`` of a run directory, rewritten atomically after every stage."""

    def __init__(self, run: Path, config: Config) -> None:
        self.path = run / FILE
        # A record that cannot be read proves nothing: every stage runs again.
        self.content: dict[str, Any] = _read(self.path) or {"stages": {}, "files": {}}
        self.content |= {
            "config": asdict(config),
            "seed": config.run.seed,
            "versions": _versions(),
            "commit": _commit(),
            "machine": {"platform": platform.platform(), "cpus": available_cores()},
        }

    def done(self, stage: str, inputs: str) -> bool:
        """Whether the stage has finished for exactly these inputs."""
        return self.content["stages"].get(stage, {}).get("inputs") == inputs

    def problem(self, name: str) -> str:
        """What is wrong with a file of the run; empty if it is as its stage left it."""
        if name in self.content["files"]:
            return file_problem(self.path.parent, self.content["files"], name)
        path = self.path.parent / name
        return "" if path.is_file() else f"{path}: missing"

    def invalidate(self, stages: Sequence[str]) -> None:
        """Treat stages as not done: what they were built on has changed."""
        for stage in stages:
            self.content["stages"].pop(stage, None)

    @contextmanager
    def stage(self, name: str, inputs: str, guard: Guard = nullcontext) -> Iterator[dict[str, Any]]:
        """Time a stage; what the body puts into the yielded dictionary is recorded with it.

        ``guard`` keeps other processes out that write to the same record.
        """
        self.invalidate([name])
        self.content["running"] = name
        self.write()  # a stage that dies half-way must not look done
        before = stats_of(self.path.parent)
        notes: dict[str, Any] = {}
        start = time.monotonic()
        yield notes
        self.content["stages"][name] = {
            "inputs": inputs,
            "seconds": round(time.monotonic() - start, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **notes,
        }
        del self.content["running"]
        with guard():
            known = (_read(self.path) or self.content)["files"]
            self.content["files"] = updated(known, self.path.parent, before)
            self.write()

    def write(self) -> None:
        """Replace the file; tokens and passwords stay out of it."""
        _write(self.path, self.content)


@contextmanager
def recording_files(run: Path, guard: Guard = nullcontext) -> Iterator[None]:
    """List in the record what the body writes into a run directory, outside of a stage."""
    before = stats_of(run)
    yield
    with guard():
        content = _read(run / FILE)
        if content is not None:
            content["files"] = updated(content["files"], run, before)
            _write(run / FILE, content)


def _read(path: Path) -> dict[str, Any] | None:
    """A record, None if there is none or if it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if "files" not in found:  # of micro-rm before 0.2
            found["files"] = {}
        elif found["checksum"] != seal(found)["checksum"]:
            return None
        sound = isinstance(found["stages"], dict) and isinstance(found["files"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if sound else None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, seal(redact_all(content)))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _commit() -> str:
    """Commit of the checkout that runs, with a mark if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "not a checkout"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
