"""Terminal tables of a comparison of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from .tables import comparison_table, interval


def comparison_parts(content: Mapping[str, Any]) -> list[Table | str]:
    """What is compared, accuracies, differences, and the settings in which the runs differ."""
    parts: list[Table | str] = [
        f"{content['rows']:,} test rows over {content['prompts']:,} prompts in common"
    ]
    parts += [
        f"{name}: {count:,} rows that another run lacks are left out"
        for name, count in content["left_out"].items()
        if count
    ]
    parts += ["", _accuracies(content), "", comparison_table(content)]
    seeds = {entry["seeds"] for entry in content["methods"].values()} - {1}
    if len(seeds) > 1:
        parts += ["", f"Differences are over the first {min(seeds)} seeds, which both runs have."]
    if content["settings"]:
        parts += ["", _settings(content)]
    return parts


def _accuracies(content: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in ("macro", f"{content['confidence']:.0%} interval", "seeds", "draws"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in content["methods"].items():
        table.add_row(
            Text(name),
            f"{entry['macro']['accuracy']:.3f}",
            interval(entry["macro"]),
            str(entry["seeds"]),
            str(entry["draws"]),
        )
    return table


def _settings(content: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    for name in content["runs"]:
        table.add_column(name, overflow="fold")
    for key, values in content["settings"].items():
        table.add_row(Text(key), *(Text(str(value)) for value in values.values()))
    return table
