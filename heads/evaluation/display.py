"""The result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from .report import ORACLE, VALIDATED


def method_table(report: Mapping[str, Any]) -> Table:
    """A method per row: macro accuracy with its interval, spread over draws, NLL, what it is told.

    The best accuracy is bold; oracles do not compete.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in ("macro", f"{report['confidence']:.0%} interval", "draws", "NLL", "told"):
        table.add_column(heading, justify="right")
    best = best_method(report)
    for name, label in labelled_rows(report["methods"]):
        entry = report["methods"][name]
        macro, draws = entry["macro"], entry["draws"]
        table.add_row(
            Text(label),
            Text(f"{macro['accuracy']:.3f}", style="bold" if name == best else ""),
            f"{macro['low']:.3f}-{macro['high']:.3f}",
            f"±{draws['std']:.3f}" if draws["count"] > 1 else "",
            f"{entry['nll']:.3f}",
            entry["told"],
        )
    return table


def labelled_rows(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Names with what to call them: best single heads stand, indented, below their owner."""
    names = list(methods)
    rows = []
    for name in names:
        if not name.endswith((ORACLE, VALIDATED)):
            rows.append((name, name))
            for suffix, words in ((VALIDATED, "best validated"), (ORACLE, "oracle")):
                if name + suffix in names:
                    rows.append((name + suffix, f"  {words} head"))
    return rows


def attribute_table(report: Mapping[str, Any], names: list[str]) -> Table:
    """Attributes as rows, some methods as columns; the best of a row is bold."""
    methods = {name: report["methods"][name] for name in names}
    table = Table("accuracy", "n", *names, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for attribute, first in next(iter(methods.values()))["attributes"].items():
        values = [entry["attributes"][attribute]["accuracy"] for entry in methods.values()]
        best = max(values)
        shown = [Text(f"{value:.3f}", style="bold" if value == best else "") for value in values]
        table.add_row(Text(attribute), str(first["n"]), *shown)
    return table


def best_method(report: Mapping[str, Any]) -> str:
    """The method with the highest macro accuracy, oracles left out."""
    methods = report["methods"]
    real = [name for name in methods if not name.endswith(ORACLE)]
    return max(real, key=lambda name: methods[name]["macro"]["accuracy"])


def headline_methods(report: Mapping[str, Any]) -> list[str]:
    """The few methods whose attributes a terminal shows: reference, MiCRo's stages, the best."""
    wanted = {"single_bt", "static_mixture", "micro_stage1", "micro", best_method(report)}
    shown = [name for name in report["methods"] if name in wanted]
    return [name for name in shown if not name.endswith(VALIDATED)]


def benchmark_table(found: Mapping[str, Any]) -> Table:
    """The scores of a benchmark in its own units; official ones behind a slash."""
    methods = found["methods"]
    sections = list(next(iter(methods.values()))["attributes"])
    table = Table(found["name"], "total", *sections, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, entry in methods.items():
        values = [entry["macro"]["accuracy"]]
        values += [cell["accuracy"] for cell in entry["attributes"].values()]
        shown = [f"{value:.3f}" for value in values]
        if "official" in found:
            scores = found["official"][name]
            official = [scores["total"], *(scores[section] for section in sections)]
            shown = [f"{mine}/{score:.3f}" for mine, score in zip(shown, official, strict=True)]
        table.add_row(Text(name), *shown)
    return table
