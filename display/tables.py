"""Terminal tables of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ..common.columns import Column, Columns
from ..heads.evaluation.rows import ORACLE, VALIDATED, labelled_rows

STANDING = {"better": "better", "worse": "worse", "noise": "no", "few": "too few"}


def method_table(report: Mapping[str, Any]) -> Table:
    """One row per method: macro accuracy, interval, spread over training seeds and over draws, NLL,
    test-time information.

    The best accuracy is bold; oracles are not candidates.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    interval_heading = f"{report['confidence']:.0%} interval"
    for heading in ("macro", interval_heading, "seeds", "draws", "NLL", "given"):
        table.add_column(heading, justify="right")
    best = best_method(report)
    for name, label in labelled_rows(report["methods"]):
        entry = report["methods"][name]
        macro = entry["macro"]
        table.add_row(
            Text(label),
            Text(f"{macro['accuracy']:.3f}", style="bold" if name == best else ""),
            interval(macro),
            _spread(entry["seeds"]),
            _spread(entry["draws"]),
            f"{entry['nll']:.3f}",
            entry["given"],
        )
    return table


def interval(cell: Mapping[str, Any]) -> str:
    """The interval of an accuracy, or that there are too few units to give one."""
    return "too few" if cell["few"] else f"{cell['low']:.3f}-{cell['high']:.3f}"


def _spread(repeated: Mapping[str, Any]) -> str:
    return f"±{repeated['std']:.3f}" if repeated["count"] > 1 else ""


def comparison_table(report: Mapping[str, Any]) -> Table:
    """One row per comparison, by what it is with: difference and its interval, p-value alone and
    in the family of all rows, and what that says."""
    table = Table(box=None, pad_edge=False)
    table.add_column("difference", no_wrap=True)
    for heading in ("macro", f"{report['confidence']:.0%} interval", "p", "adjusted"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("differs", no_wrap=True)
    for base in dict.fromkeys(item["against"] for item in report["comparisons"]):
        table.add_row(Text(f"from {base}"))
        for item in report["comparisons"]:
            if item["against"] == base:
                few = item["few"]
                table.add_row(
                    Text(f"  {item['method']}"),
                    f"{item['difference']:+.3f}",
                    "too few" if few else f"{item['low']:+.3f} to {item['high']:+.3f}",
                    p_text(item["p"]),
                    p_text(item["p_adjusted"]),
                    STANDING[item["standing"]],
                )
    return table


def p_text(p: float | None) -> str:
    """A p-value as tables show it; reports of older versions have none.

    >>> p_text(0.031), p_text(1e-9), p_text(None)
    ('0.031', '<0.001', '')
    """
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def attribute_table(report: Mapping[str, Any], names: list[str]) -> Columns:
    """Accuracy per attribute (rows) of the named methods (columns); the best of a row is bold."""
    methods = {name: report["methods"][name]["attributes"] for name in names}
    first = next(iter(methods.values()))
    best = {a: max(cells[a]["accuracy"] for cells in methods.values()) for a in first}
    return Columns(
        [
            Column("accuracy", list(first)),
            Column("n", [str(cell["n"]) for cell in first.values()]),
        ],
        [
            Column(
                name,
                [_bold(f"{c['accuracy']:.3f}", c["accuracy"] == best[a]) for a, c in cells.items()],
            )
            for name, cells in methods.items()
        ],
    )


def _bold(text: str, best: bool) -> Text:
    return Text(text, style="bold" if best else "")


def best_method(report: Mapping[str, Any]) -> str:
    """The method with the highest macro accuracy, leaving out oracles."""
    methods = report["methods"]
    real = [name for name in methods if not name.endswith(ORACLE)]
    return max(real, key=lambda name: methods[name]["macro"]["accuracy"])


def headline_methods(report: Mapping[str, Any]) -> list[str]:
    """The methods of the attribute table: single reward, mixture, MiCRo's two stages, the best."""
    wanted = {"single_bt", "static_mixture", "micro_stage1", "micro", best_method(report)}
    shown = [name for name in report["methods"] if name in wanted]
    return [name for name in shown if not name.endswith(VALIDATED)]


def benchmark_table(benchmark: Mapping[str, Any]) -> Columns:
    """Scores of a benchmark per method and section; official scores follow after a slash."""
    methods = benchmark["methods"]
    scores = {
        name: {"total": entry["macro"]["accuracy"]}
        | {section: cell["accuracy"] for section, cell in entry["attributes"].items()}
        for name, entry in methods.items()
    }

    def cell(name: str, section: str) -> str:
        pooled = f"{scores[name][section]:.3f}"
        if "official" not in benchmark:
            return pooled
        return f"{pooled}/{benchmark['official'][name][section]:.3f}"

    sections = list(next(iter(scores.values())))
    return Columns(
        [Column(benchmark["name"], list(methods))],
        [Column(section, [cell(name, section) for name in methods]) for section in sections],
    )
