"""The learning stages over a run directory: train, adapt, evaluate; done once for equal inputs.

Silent: the command line and ``Run`` say what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.errors import require
from ..common.imports import permanent_imports
from ..configs.schema import SIMULATOR_SOURCE, Config
from ..run_dir import freshness
from ..run_dir.record import RunRecord

Notes = dict[str, Any]


def train_stage(config: Config) -> Notes:
    """Fit every chosen method that needs no labelled rows."""
    with permanent_imports():
        from ..heads import stages

    models, skipped = stages.train(config)
    return {"trained": list(models), "skipped": skipped}


def adapt_stage(config: Config) -> Notes:
    """Fit every chosen method that learns from labelled rows."""
    with permanent_imports():
        from ..heads import stages

    models, skipped = stages.adapt(config)
    return {"adapted": list(models), "skipped": skipped}


def evaluate_stage(config: Config) -> Notes:
    """Score the held-out rows; writes report.json and predictions.parquet."""
    with permanent_imports():
        from ..heads import stages

    test = stages.evaluate(config)["test"]
    return {"rows": test["rows"], "prompts": test["prompts"]}


STAGES: dict[str, Callable[[Config], Notes]] = {
    "train": train_stage,
    "adapt": adapt_stage,
    "evaluate": evaluate_stage,
}


def run_stage(name: str, config: Config, record: RunRecord) -> Notes:
    """Run one stage and record it; later stages, whose inputs it replaces, count as not done.

    Returns what the record notes about it.
    """
    from ..cache.manifest import read_manifest

    if config.data.source == SIMULATOR_SOURCE:
        record.content["store"] = asdict(config.data.simulator)
    else:
        record.content["store"] = asdict(read_manifest(Path(config.store.dir)).identity)
    inputs = freshness.stage_inputs(config, freshness.stored_table_fingerprint(config))[name]
    order = list(STAGES)
    record.invalidate(order[order.index(name) :])
    with record.stage(name, inputs) as notes:
        notes |= STAGES[name](config)
    return notes


def stages_to_do(config: Config, record: RunRecord, request: str | None) -> list[str]:
    """The first stage whose result is missing, damaged or of other inputs, and all after it.

    ``request`` identifies the pair table, as ``freshness.with_missing_pairs`` gives it.
    """
    inputs = freshness.stage_inputs(config, request)
    names = list(STAGES)
    for index, name in enumerate(names):
        if not freshness.is_done(config, record, name, inputs):
            return names[index:]
    return []


def require_whole_job(config: Config) -> None:
    """Raise ``ConfigError`` for settings that contradict a whole run."""
    from ..heads.methods import check_names

    check_names(config.methods)
    require(
        config.embed.part == (0, 1),
        "embed.shards",
        "0/1 here; parts are for micro-rm embed, then run",
        config.embed.shards,
    )
    require(
        not config.report.prompts or config.data.source != SIMULATOR_SOURCE,
        "report.prompts",
        "none with the simulator, which has no text",
        f"{len(config.report.prompts)} prompts",
    )
