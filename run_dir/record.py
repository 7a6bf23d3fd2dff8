"""The record of a run: configuration, versions, seed, machine, and what each stage did and took."""

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
from .files import file_problem, file_stats, update_entries, with_checksum

EnterLock = Callable[[], AbstractContextManager[Any]]
PACKAGES = ("micro-rm", "jax", "flax", "optax", "numpy", "h5py", "torch", "transformers")


class RunRecord:
    """``record.json`` of a run directory, rewritten atomically before and after every stage.

    Opening keeps the stages of an existing record and replaces the description of the run. A record
    that is missing or damaged counts as empty, so that every stage runs again.

    Args:
        run: The run directory; it is created when the record is first written.
        config: The resolved configuration of this run.
    """

    def __init__(self, run: Path, config: Config) -> None:
        self.path: Path = run / FILE
        self.content: dict[str, Any] = _read(self.path) or {"stages": {}, "files": {}}
        self.content |= {
            "config": asdict(config),
            "seed": config.run.seed,
            "versions": _versions(),
            "commit": _commit(),
            "machine": {"platform": platform.platform(), "cpus": available_cores()},
        }

    def done(self, stage: str, inputs: str) -> bool:
        """Whether a stage has finished with these inputs, given as a fingerprint."""
        return self.content["stages"].get(stage, {}).get("inputs") == inputs

    def problem(self, name: str) -> str:
        """Describe what is wrong with a file of the run; empty if it is as its stage left it."""
        if name in self.content["files"]:
            return file_problem(self.path.parent, self.content["files"], name)
        path = self.path.parent / name
        return "" if path.is_file() else f"{path}: missing"

    def invalidate(self, stages: Sequence[str]) -> None:
        """Mark stages as not done, because an input of theirs has changed."""
        for stage in stages:
            self.content["stages"].pop(stage, None)

    @contextmanager
    def stage(
        self, name: str, inputs: str, guard: EnterLock = nullcontext
    ) -> Iterator[dict[str, Any]]:
        """Run a stage in the body, time it, and record it as done if the body does not raise.

        Args:
            name: Name of the stage.
            inputs: Fingerprint of everything that the stage's result depends on.
            guard: Makes a context manager that keeps out other processes which write to the record.

        Yields:
            A dictionary; what the body puts into it is recorded with the stage.
        """
        self.invalidate([name])
        self.content["running"] = name
        self.write()  # a stage that is interrupted must not look done
        before = file_stats(self.path.parent)
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
            # Read again: another process may have added files to the record in the meantime.
            entries = (_read(self.path) or self.content)["files"]
            self.content["files"] = update_entries(entries, self.path.parent, before)
            self.write()

    def write(self) -> None:
        """Write the record to its file, with secrets redacted."""
        _write(self.path, self.content)


@contextmanager
def recording_files(run: Path, guard: EnterLock = nullcontext) -> Iterator[None]:
    """Add to the record the files that the body writes into a run directory outside of a stage.

    ``guard`` is as for ``RunRecord.stage``. Does nothing if there is no record.
    """
    before = file_stats(run)
    yield
    with guard():
        content = _read(run / FILE)
        if content is not None:
            content["files"] = update_entries(content["files"], run, before)
            _write(run / FILE, content)


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a record, None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if "files" not in content:  # written before version 0.2
            content["files"] = {}
        elif content["checksum"] != with_checksum(content)["checksum"]:
            return None
        sound = isinstance(content["stages"], dict) and isinstance(content["files"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if sound else None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, with_checksum(redact_all(content)))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _commit() -> str:
    """Commit of the running checkout, marked ``-dirty`` if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "not a checkout"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip() or "unknown"
