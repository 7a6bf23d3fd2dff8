"""Terminal tables and progress of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..common.columns import Column, Columns
from .studies import study_tables

SHOWN_SETTINGS = 5


def progress_line(done: int, members: int, failed: int) -> str:
    """One line on how many members are done and how many failed."""
    failures = f", {failed} failed" if failed else ""
    return f"sweep    {done} of {members} members{failures}"


def sweep_tables(summary: Mapping[str, Any]) -> Iterator[object]:
    """The parts of a sweep summary to print: curves, best settings per method, failures."""
    for study in summary["studies"].values():
        yield from study_tables(study)
    for method, entries in summary["best"].items():
        if len(entries) > 1:
            yield f"{method}: best by validation, of {len(entries)} settings"
            yield _best(entries[:SHOWN_SETTINGS])
            yield ""
    for item in summary["failed"]:
        yield f"failed   {item['settings']}: {item['error']}"


def _best(entries: list[Mapping[str, Any]]) -> Columns:
    """Ranked settings with the number of seeds, validation NLL and accuracy of each."""
    keys = list(entries[0]["settings"])
    losses = [entry["validation_nll"] for entry in entries]
    return Columns(
        [Column("", [str(rank) for rank in range(1, len(entries) + 1)])],
        [
            *(Column(key, [str(e["settings"][key]) for e in entries], left=True) for key in keys),
            Column("seeds", [str(entry["seeds"]) for entry in entries]),
            Column("validation NLL", ["-" if loss is None else f"{loss:.4f}" for loss in losses]),
            Column("accuracy", [_accuracy(entry["accuracy"]) for entry in entries]),
        ],
    )


def _accuracy(accuracy: Mapping[str, Any]) -> str:
    half_width = "" if accuracy["low"] is None else f" ±{accuracy['mean'] - accuracy['low']:.3f}"
    return f"{accuracy['mean']:.3f}{half_width}"
