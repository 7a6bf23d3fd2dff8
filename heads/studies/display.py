"""A study's tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def study_tables(study: Mapping[str, Any]) -> Iterator[object]:
    """Question, one table per metric (values of x by series, mean and half interval), reading."""
    yield f"{study['title']}: {study['question']}"
    for metric, series in study["metrics"].items():
        table = Table(metric, *series, box=None, pad_edge=False, title=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for x in dict.fromkeys(item["x"] for points in series.values() for item in points):
            cells = [_cell(next((p for p in pts if p["x"] == x), None)) for pts in series.values()]
            table.add_row(f"{x:g}", *cells)
        yield table
    yield study["reading"]
    yield ""


def _cell(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "-"
    if item["low"] is None:
        return f"{item['mean']:.3f}"
    return f"{item['mean']:.3f} ±{item['mean'] - item['low']:.3f}"
