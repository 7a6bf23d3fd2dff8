"""Terminal tables of the comparison with published results, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..heads.evaluation.compare import ABOVE, BELOW, NO_COUNTERPART, WITHIN

SIGNS = {ABOVE: "+", WITHIN: "=", BELOW: "-", NO_COUNTERPART: ""}
LEGEND = "+ above, = within noise, - below: 95 % of what both test sets allow"


def comparison_tables(comparison: Mapping[str, Any]) -> list[RenderableType]:
    """The parts to print: a table per published row, a legend, notes; or the table of counts.

    ``comparison`` is what ``compare`` returns.
    """
    title = f"{comparison['table']}: {comparison['title']}, published and ours"
    notes = [Text(f"{note['about']}: {note['text']}") for note in comparison["notes"]]
    if "counts" in comparison:
        return [title, _count_table(comparison), "", *notes]
    tables: list[RenderableType] = []
    for row in comparison["rows"]:
        unmatched = all(cell["verdict"] == NO_COUNTERPART for cell in row["cells"].values())
        shown = _unmatched_row(row) if unmatched else _row_table(row, comparison["attributes"])
        tables += [shown, ""]
    return [title, "", *tables, LEGEND, *notes]


def _unmatched_row(row: Mapping[str, Any]) -> Text:
    """One line for a published method without a result of ours, with the reason."""
    why = "nothing here is that" if row["ours"] is None else f"{row['ours']} is not in this run"
    return Text(f"{row['name']}: average {row['average']['published']:.3f}; {why}")


def _row_table(row: Mapping[str, Any], attributes: list[str]) -> Table:
    """Published and our accuracy of one method per attribute, our interval, and the verdict."""
    heading = row["name"] if row["ours"] is None else f"{row['name']} ({row['ours']})"
    table = Table(heading, "published", "ours", "interval", "", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].min_width = 40
    for name in attributes:
        table.add_row(Text(name), *_cells(row["cells"][name]))
    table.add_row(Text("average", style="bold"), *_cells(row["average"]))
    return table


def _cells(cell: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if cell["ours"] is None:
        return f"{cell['published']:.3f}", "-", "", ""
    return (
        f"{cell['published']:.3f}",
        f"{cell['ours']:.3f}",
        f"{cell['low']:.3f}-{cell['high']:.3f}",
        SIGNS[cell["verdict"]],
    )


def _count_table(comparison: Mapping[str, Any]) -> Table:
    table = Table("pairs", "published", "ours", "", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison["counts"]:
        same = "=" if row["published"] == row["ours"] else f"{row['ours'] - row['published']:+,}"
        table.add_row(Text(row["name"]), f"{row['published']:,}", f"{row['ours']:,}", same)
    return table
