"""Terminal tables of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..common.columns import Column, Columns


def study_tables(study: Mapping[str, Any]) -> Iterator[object]:
    """The parts of a study to print: its question, a table per metric, its reading.

    Rows of a table are values of x, columns are series; cells are the mean over seeds and half the
    width of its interval.
    """
    yield f"{study['title']}: {study['question']}"
    for metric, series in study["metrics"].items():
        xs = list(dict.fromkeys(item["x"] for points in series.values() for item in points))
        yield Columns(
            [Column(metric, [f"{x:g}" for x in xs])],
            [
                Column(name, [_cell(next((p for p in points if p["x"] == x), None)) for x in xs])
                for name, points in series.items()
            ],
        )
        yield ""
    yield study["reading"]
    yield ""


def _cell(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "-"
    if item["low"] is None:
        return f"{item['mean']:.3f}"
    return f"{item['mean']:.3f} ±{item['mean'] - item['low']:.3f}"
