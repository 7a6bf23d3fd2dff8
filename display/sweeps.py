"""A sweep in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..common.columns import Column, Columns
from .studies import study_tables

SHOWN = 5


def progress_line(done: int, members: int, failed: int) -> str:
    """How far the sweep is."""
    trouble = f", {failed} failed" if failed else ""
    return f"sweep    {done} of {members} members{trouble}"


def sweep_tables(summary: Mapping[str, Any]) -> Iterator[object]:
    """The curves, the best settings of every method, and what failed."""
    for study in summary["studies"].values():
        yield from study_tables(study)
    for method, entries in summary["best"].items():
        if len(entries) > 1:
            yield f"{method}: best by validation, of {len(entries)} settings"
            yield _best(entries[:SHOWN])
            yield ""
    for item in summary["failed"]:
        yield f"failed   {item['settings']}: {item['error']}"


def _best(entries: list[Mapping[str, Any]]) -> Columns:
    """The settings in their order: what was set, and how well it does."""
    keys = list(entries[0]["settings"])
    losses = [entry["validation_nll"] for entry in entries]
    return Columns(
        [Column("", [str(place) for place in range(1, len(entries) + 1)])],
        [
            *(Column(key, [str(e["settings"][key]) for e in entries], left=True) for key in keys),
            Column("seeds", [str(entry["seeds"]) for entry in entries]),
            Column("validation NLL", ["-" if loss is None else f"{loss:.4f}" for loss in losses]),
            Column("accuracy", [_accuracy(entry["accuracy"]) for entry in entries]),
        ],
    )


def _accuracy(found: Mapping[str, Any]) -> str:
    spread = "" if found["low"] is None else f" ±{found['mean'] - found['low']:.3f}"
    return f"{found['mean']:.3f}{spread}"
