"""``report.html`` from ``report.json``: one self-contained file, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from .display import best_method
from .plots import study_curves, training_curves
from .report import ORACLE
from .verdict import standing

TEMPLATE = "report.html.j2"


def render_page(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of a report. ``curves`` are those of each trained method."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shade"] = shade
    source = resources.files(__name__.rpartition(".")[0]).joinpath(TEMPLATE).read_text("utf-8")
    methods = report["methods"]
    attributes = list(next(iter(methods.values()))["attributes"])
    rivals = [name for name in methods if not name.endswith(ORACLE)]
    winners = {
        attribute: max(rivals, key=lambda m: methods[m]["attributes"][attribute]["accuracy"])
        for attribute in attributes
    }
    return environment.from_string(source).render(
        report=report,
        attributes=attributes,
        winners=winners,
        best=best_method(report),
        xs=lambda series: list(dict.fromkeys(p["x"] for points in series.values() for p in points)),
        at=lambda points, x: next((point for point in points if point["x"] == x), None),
        standing=standing,
        mixtures={
            name: {**heads, "largest_weight": _weight_scale(heads)}
            for name, heads in report["heads"].items()
            if len(heads["usage"]) > 1
        },
        curves=Markup(training_curves(curves)),
        study_figures={
            name: Markup(study_curves(study)) for name, study in report["studies"].items()
        },
    )


def shade(value: float, low: float, high: float) -> str:
    """A CSS colour for a cell: red below the middle of [low, high], blue above, clear at it."""
    middle, half = (low + high) / 2, (high - low) / 2
    strength = max(-1.0, min(1.0, (value - middle) / half))
    hue = "59, 111, 212" if strength > 0 else "212, 99, 59"
    return f"rgba({hue}, {abs(strength) * 0.75:.2f})"


def _weight_scale(heads: Mapping[str, Any]) -> float:
    """Weight of the strongest shade; large enough that uniform weights look uncertain."""
    return max(3 / len(heads["usage"]), *map(max, heads["weights"].values()))
