"""Render ``theory.html``, a self-contained page with inline figures."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from .page import sanitize
from .plots import COLOURS, INK, svg

TEMPLATE = "theory.html.j2"
BLUE, ORANGE, GREEN, VIOLET, GOLD, SLATE = COLOURS


class Line(NamedTuple):
    """Label and line style of a quantity; fitted models have markers, bounds and limits none."""

    label: str
    short: str
    colour: str
    style: str
    marker: str = ""


# The order of the legend and of the table columns, from top to bottom of the figure.
LINES = {
    "single": Line("fitted: one head", "one head", ORANGE, "-", "o"),
    "best_blind": Line("least loss, group and prompt unknown", "prompt unknown", ORANGE, ":"),
    "joint": Line("fitted: one head on prompt × response", "joint head", GOLD, "-", "s"),
    "mixture": Line("fitted: mixture with a router", "mixture", BLUE, "-", "D"),
    "best_single": Line("E[h(σ̄)]: least loss, group unknown", "E[h(σ̄)]", BLUE, ":"),
    "weighted_bound": Line("bound with weights γ", "weighted", SLATE, "-."),
    "per_pair_bound": Line("per-pair bound", "per pair", VIOLET, "--"),
    "paper_bound": Line("bound of the paper", "paper", GREEN, "--"),
    "told": Line("fitted: one head that is told the group", "told", INK, "-", "^"),
    "irreducible": Line("H: least loss, group known", "H", INK, ":"),
}
CASES = {
    "ordered": "prompt tells the group, answers in the order of the systems",
    "shuffled": "the same pairs, each in both orders",
    "silent": "prompt says nothing, answers in the order of the systems",
}


def render_theory_page(result: Mapping[str, Any]) -> str:
    """Render the page; ``result`` is what ``run_theory`` returns, or its JSON read back."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=sanitize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = (
        resources.files(__name__.rpartition(".")[0])
        .joinpath("templates", TEMPLATE)
        .read_text("utf-8")
    )
    return environment.from_string(source).render(
        result=result,
        config=result["config"],
        random=result["random"],
        lines=LINES,
        cases={name: (title, case_rows(result, name)) for name, title in CASES.items()},
        middle=middle_rows(result),
        violations=sum(result["random"]["violations"].values()),
        sweep_figure=Markup(sweep_figure(result)),
        tightness_figure=Markup(tightness_figure(result)),
    )


def case_rows(result: Mapping[str, Any], case: str) -> list[Mapping[str, Any]]:
    """The rows of one case, in ascending order of spread."""
    return [row for row in result["sweep"] if row["case"] == case]


def middle_rows(result: Mapping[str, Any]) -> dict[str, Any]:
    """The row at the median spread of each case, which the text quotes; the upper of two."""
    rows_of = {name: case_rows(result, name) for name in CASES}
    return {name: rows[len(rows) // 2] for name, rows in rows_of.items()}


def sweep_figure(result: Mapping[str, Any]) -> str:
    """Losses and bounds against the spread of the scores, one panel per case, as SVG text."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(12, 4.9))
        axes = figure.subplots(1, len(CASES), sharey=True)
        for axis, (case, title) in zip(axes, CASES.items(), strict=True):
            rows = case_rows(result, case)
            spread = [row["spread"] for row in rows]
            values = {name: [row["values"][name]["value"] for row in rows] for name in LINES}
            axis.fill_between(spread, 0, values["irreducible"], color=INK, alpha=0.12, lw=0)
            axis.fill_between(
                spread, values["irreducible"], values["best_single"], color=BLUE, alpha=0.1, lw=0
            )
            for name, line in LINES.items():
                style = {"color": line.colour, "ls": line.style, "marker": line.marker, "ms": 4}
                above = (
                    3 if line.style == "--" else 2
                )  # keeps a bound that coincides with a loss visible
                axis.plot(spread, values[name], label=line.label, lw=1.5, zorder=above, **style)
            axis.set_xscale("log", base=2)
            axis.set_xticks(spread, [f"{value:g}" for value in spread])
            axis.minorticks_off()
            axis.set_ylim(0, 0.75)
            axis.set_title(title.replace(", ", ",\n"), color=INK, fontsize=10)
            axis.set_xlabel("spread of a group's score differences (log-odds)", color=INK)
            _quiet(axis)
        axes[0].set_ylabel("loss per pair (nats)", color=INK)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0.19, 1, 1))
        figure.legend(
            handles, labels, loc="lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9
        )
    return svg(figure, "spread")


def tightness_figure(result: Mapping[str, Any]) -> str:
    """Histograms of the share of the exact gap that each bound attains, as SVG text."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.6, 3.2))
        axis = figure.subplots()
        for name, tightness in result["random"]["tightness"].items():
            counts, line = tightness["histogram"], LINES[name]
            label = f"{line.label} (median {tightness['median']:.2f})"
            edges = np.linspace(0, 1, len(counts) + 1)
            axis.stairs(counts, edges, color=line.colour, ls=line.style, label=label, lw=1.6)
        axis.set_xlim(0, 1)
        axis.set_xlabel("(bound − H) / (E[h(σ̄)] − H), a share without unit", color=INK)
        axis.set_ylabel("random mixtures", color=INK)
        axis.legend(frameon=False, labelcolor=INK, fontsize=9)
        _quiet(axis)
        figure.tight_layout()
    return svg(figure, "tightness")


def _quiet(axis: Any) -> None:
    axis.tick_params(colors=INK)
    axis.grid(alpha=0.2)
    for spine in axis.spines.values():
        spine.set_color(INK)
