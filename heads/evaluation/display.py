"""The result table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def method_table(report: Mapping[str, Any]) -> Table:
    """Attributes as rows, methods as columns; the best of a row is bold."""
    methods = report["methods"]
    table = Table("accuracy", "n", *methods, box=None, pad_edge=False, title=None)
    for column in table.columns[1:]:
        column.justify = "right"
    attributes = next(iter(methods.values()))["attributes"]
    for attribute, first in attributes.items():
        values = [method["attributes"][attribute]["accuracy"] for method in methods.values()]
        table.add_row(Text(attribute), str(first["n"]), *_best_bold(values))
    macros = [method["macro"]["accuracy"] for method in methods.values()]
    table.add_section()
    table.add_row("macro", str(report["test"]["rows"]), *_best_bold(macros))
    bounds = [f"{m['macro']['low']:.3f}-{m['macro']['high']:.3f}" for m in methods.values()]
    table.add_row(f"{report['confidence']:.0%} interval", "", *bounds)
    for label, key in (("valid.", "best_head_validated"), ("oracle", "best_head_oracle")):
        values = [report["heads"][name][key] for name in methods]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(f"best head ({label})", "", *shown)
    table.add_row("NLL", "", *(f"{method['nll']:.3f}" for method in methods.values()))
    return table


def _best_bold(values: list[float]) -> list[Text]:
    best = max(values)
    return [Text(f"{value:.3f}", style="bold" if value == best else "") for value in values]
