"""Studies as a stage over a run directory: ``studies.json``, one entry per study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...cache.schema import StoreError
from ...common.files import write_json
from ..methods import load_method
from ..run_data import RunData
from .measure import STAGE1, StudyError, train_members
from .registry import REGISTRY

FILE = "studies.json"


def run_studies(
    bench: RunData, names: Sequence[str], run: Path, inputs: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the named studies and write them; returns all of them.

    ``inputs`` identifies the run that they belong to.

    Raises ``StudyError`` if the data cannot serve a method that the studies follow.
    """
    for name in (STAGE1, *bench.config.study.methods):
        reason = bench.lacks(load_method(name))
        if reason is not None:
            raise StudyError(f"study.methods: {name} is impossible here: {reason}")
    test = bench.test_set
    members = cache(lambda: train_members(bench))
    done = {}
    for name in names:
        tell(name)
        study = REGISTRY[name]
        done[name] = {
            "title": study.title,
            "question": study.question,
            **study.run(bench, test, members),
        }
        write_json(run / FILE, {"inputs": inputs, "studies": done})
    return done


def read_studies(run: Path, inputs: str | None) -> dict[str, Any]:
    """The studies of a run with these inputs, none if there are none or they are of another run.

    Raises ``StoreError`` if the file is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return found["studies"] if found["inputs"] == inputs else {}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); run micro-rm study again") from error
