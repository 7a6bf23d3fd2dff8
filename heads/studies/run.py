"""Run studies over a run directory and keep them in ``studies.json``, one entry each."""

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
from .measure import STAGE1, StudyError, train_seeds
from .registry import REGISTRY

FILE = "studies.json"


def run_studies(
    data: RunData, names: Sequence[str], run: Path, inputs: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run studies and write each to ``studies.json`` as soon as it is finished.

    Args:
        data: Data and settings of the run.
        names: Names of studies in the registry.
        run: The run directory.
        inputs: Fingerprint of the run's inputs; tells studies of another run apart.
        tell: Called with the name of each study before it starts.

    Returns:
        The entries of the named studies.

    Raises:
        StudyError: The data lack something that a method of the studies needs.
    """
    for name in (STAGE1, *data.config.study.methods):
        reason = data.lacks(load_method(name))
        if reason is not None:
            raise StudyError(f"study.methods: {name} is impossible here: {reason}")
    test = data.test_set
    # Cached: every study that looks at the heads shares one training per seed.
    seed_runs = cache(lambda: train_seeds(data))
    done = {}
    for name in names:
        tell(name)
        study = REGISTRY[name]
        done[name] = {
            "title": study.title,
            "question": study.question,
            **study.run(data, test, seed_runs),
        }
        write_json(run / FILE, {"inputs": inputs, "studies": done})
    return done


def read_studies(run: Path, inputs: str | None) -> dict[str, Any]:
    """Read the studies of a run; empty if there are none or their inputs differ.

    Args:
        run: The run directory.
        inputs: Fingerprint of the run's inputs.

    Raises:
        StoreError: The file is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        return content["studies"] if content["inputs"] == inputs else {}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); run micro-rm study again") from error
