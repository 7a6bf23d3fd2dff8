"""A study's tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..common.columns import Column, Columns


def study_tables(study: Mapping[str, Any]) -> Iterator[object]:
    """Question, one table per metric (values of x by series, mean and half interval), reading."""
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
