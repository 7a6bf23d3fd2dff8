"""A sweep in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from ..studies.display import study_tables

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


def _best(entries: list[Mapping[str, Any]]) -> Table:
    keys = list(entries[0]["settings"])
    table = Table(*keys, "seeds", "validation NLL", "accuracy", box=None, pad_edge=False)
    for column in table.columns[len(keys) :]:
        column.justify = "right"
    for entry in entries:
        loss, accuracy = entry["validation_nll"], entry["accuracy"]
        spread = "" if accuracy["low"] is None else f" ±{accuracy['mean'] - accuracy['low']:.3f}"
        table.add_row(
            *(str(value) for value in entry["settings"].values()),
            str(entry["seeds"]),
            "-" if loss is None else f"{loss:.4f}",
            f"{accuracy['mean']:.3f}{spread}",
        )
    return table
