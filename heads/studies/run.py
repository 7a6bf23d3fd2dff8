"""Studies as a stage over a run directory: ``studies.json``, one entry per study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...cache.schema import StoreError, write_json
from ..evaluation.protocol import make_test_set
from ..methods import load_method
from ..workbench import Workbench
from .heads import StudyError
from .measure import STAGE1, train_members
from .registry import REGISTRY

FILE = "studies.json"


def run_studies(
    bench: Workbench, names: Sequence[str], run: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the named studies and write them; returns all of them.

    Raises ``StudyError`` if the data cannot serve a method that the studies follow.
    """
    for name in (STAGE1, *bench.config.study.methods):
        reason = bench.lacks(load_method(name))
        if reason is not None:
            raise StudyError(f"study.methods: {name} is impossible here: {reason}")
    test = make_test_set(bench.features.table, bench.parts.test)
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
        write_json(run / FILE, done)
    return done


def read_studies(run: Path) -> dict[str, Any]:
    """The studies of a run, none if there are none; ``StoreError`` if the file is damaged."""
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); run micro-rm study again") from error
