"""Figures of results, as matplotlib figures or as SVG text for a page."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..common.redact import escape_controls, redact
from ..heads.evaluation.rows import owner_of

# The colours of figures outside of pages. On a page ``themed`` replaces them by CSS variables, for
# which the style sheet has one shade on light paper and another on dark paper.
COLOURS = ("#3b6fd4", "#d4633b", "#2f9e6e", "#9a5bd0", "#b8860b", "#5f7d8c")
INK = "#808890"
CSS_VARIABLES = {INK: "--soft"} | {colour: f"--c{n}" for n, colour in enumerate(COLOURS, 1)}
TWO_COLUMN_CHARACTERS = 24  # longest label of a legend in two columns
MAX_LABEL_CHARACTERS = 80  # longer labels would push the panels out of the figure


CurvesOfMethods = Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]


def training_curves(curves: CurvesOfMethods) -> list[str]:
    """``training_figures`` as SVG text."""
    return [svg(figure, kind) for kind, figure in training_figures(curves).items()]


def training_figures(curves: CurvesOfMethods) -> dict[str, Figure]:
    """A figure per kind of curve (objective, validation NLL, cross-entropy), a line per method.

    Kinds without a finite value have none.
    """
    kinds = dict.fromkeys(
        kind for group in curves.values() for kind, line in group.items() if np.isfinite(line).any()
    )
    return {kind: _training_figure(kind, curves) for kind in kinds}


def _training_figure(kind: str, curves: CurvesOfMethods) -> Figure:
    with panel() as (figure, axis):
        for (colour, line), (method, group) in zip(styles(), curves.items(), strict=False):
            if kind in group:
                values = np.asarray(group[kind], float)
                epochs = np.arange(1, values.size + 1)
                marker = "o" if values.size < 15 else None
                axis.plot(
                    epochs, values, line, color=colour, label=label(method), marker=marker, ms=3
                )
        style_axis(axis, kind.replace("_", " ").replace("nll", "NLL"), "epoch")
    return figure


def study_curves(study: Mapping[str, Any]) -> list[str]:
    """``study_figures`` as SVG text."""
    figures = study_figures(study)
    return [svg(figure, f"{study['title']} {metric}") for metric, figure in figures.items()]


def study_figures(study: Mapping[str, Any]) -> dict[str, Figure]:
    """A figure per metric of a study, a line per series with its interval over seeds."""
    metrics = study["metrics"]
    names = list(dict.fromkeys(name for series in metrics.values() for name in series))
    style_of = dict(zip(names, styles(), strict=False))
    return {
        metric: _study_figure(metric, series, study["x"], style_of)
        for metric, series in metrics.items()
    }


def _study_figure(
    metric: str,
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    x_axis: Mapping[str, Any],
    style_of: Mapping[str, tuple[str, str]],
) -> Figure:
    with panel() as (figure, axis):
        for name, points in series.items():
            colour, line = style_of[name]
            x, mean = ([point[key] for point in points] for key in ("x", "mean"))
            axis.plot(x, mean, line, color=colour, label=label(name), marker="o", ms=3)
            for point in points:  # every seed, faintly
                values = point["values"]
                axis.plot([point["x"]] * len(values), values, ".", color=colour, ms=2, alpha=0.5)
            known = [point for point in points if point["low"] is not None]
            axis.fill_between(
                [point["x"] for point in known],
                [point["low"] for point in known],
                [point["high"] for point in known],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        if x_axis["log"]:
            axis.set_xscale("log")
        axis.set_ylim(y_limits(series))
        style_axis(axis, metric, x_axis["label"])
    return figure


def y_limits(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float] | None:
    """Limits of the y axis: all measured values, and intervals up to half their range beyond.

    Intervals over two or three seeds can be so wide that the curves would look flat at full scale.

    Returns:
        ``(bottom, top)``; None if all values are equal or none is finite.
    """
    points = [point for group in series.values() for point in group]
    measured = [value for point in points for value in (point["mean"], *point["values"])]
    measured = [value for value in measured if np.isfinite(value)]
    if not measured or min(measured) == max(measured):
        return None
    low, high = min(measured), max(measured)
    overshoot = (high - low) / 2
    known = [point for point in points if point["low"] is not None]
    bottom = max(min([low, *(point["low"] for point in known)]), low - overshoot)
    top = min(max([high, *(point["high"] for point in known)]), high + overshoot)
    margin = (top - bottom) / 20
    return bottom - margin, top + margin


def styles() -> Iterator[tuple[str, str]]:
    """``(colour, line style)`` pairs without end: solid lines, then dashed, then dotted."""
    return ((colour, line) for line in itertools.cycle(("-", "--", ":")) for colour in COLOURS)


def accuracy_figure(report: Mapping[str, Any]) -> Figure:
    """Macro accuracy of every method of a report with its interval, best single heads left out."""
    methods = report["methods"]
    names = [name for name in methods if owner_of(name) == name][::-1]
    with panel() as (figure, axis):
        figure.set_size_inches(4.4, 0.8 + 0.28 * len(names))
        for index, name in enumerate(names):
            macro = methods[name]["macro"]
            axis.plot([macro["low"], macro["high"]], [index, index], color=COLOURS[0], alpha=0.5)
            axis.plot(macro["accuracy"], index, "o", color=COLOURS[0], ms=4)
        axis.axvline(0.5, color=INK, linestyle=":", linewidth=1)  # chance
        axis.set_yticks(range(len(names)), [label(name) for name in names])
        axis.set_xlabel(f"macro accuracy, {report['confidence']:.0%} interval", color=INK)
        _finish_forest(axis)
    figure.set_layout_engine("tight")
    return figure


def _finish_forest(axis: Any) -> None:
    """Ink and grid of a panel with a row per method."""
    axis.tick_params(colors=INK)
    axis.grid(axis="x", alpha=0.2)
    for spine in axis.spines.values():
        spine.set_color(INK)


def difference_figure(content: Mapping[str, Any]) -> Figure:
    """Differences of a comparison with their intervals; those beyond noise are filled."""
    items = content["comparisons"][::-1]
    with panel() as (figure, axis):
        figure.set_size_inches(5.6, 0.9 + 0.3 * len(items))
        for index, item in enumerate(items):
            axis.plot([item["low"], item["high"]], [index, index], color=COLOURS[0], alpha=0.5)
            sure = item["standing"] in ("better", "worse")
            face = COLOURS[0] if sure else "none"
            axis.plot(item["difference"], index, "o", color=COLOURS[0], mfc=face, ms=5)
        axis.axvline(0, color=INK, linestyle=":", linewidth=1)
        names = [f"{item['method']}\nfrom {item['against']}" for item in items]
        axis.set_yticks(range(len(items)), names, fontsize="small")
        axis.set_ylim(-0.6, len(items) - 0.4)
        axis.set_xlabel(
            f"difference of macro accuracy, {content['confidence']:.0%} interval", color=INK
        )
        _finish_forest(axis)
    figure.set_layout_engine("tight")
    return figure


class ResultFigure(Figure):
    """A figure that a notebook shows as the value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=120, bbox_inches="tight", facecolor="white")
        return stream.getvalue()


@contextmanager
def panel() -> Iterator[tuple[Figure, Any]]:
    """A figure with one panel, as wide as a phone shows without making its letters small.

    It belongs to no window and no pyplot state: whoever has it shows or saves it.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = ResultFigure(figsize=(4.4, 3.1))
        yield figure, figure.subplots()


def label(name: str) -> str:
    """Prepare a name for matplotlib, which shows it literally: no formulas, no control characters.

    Secrets are redacted and long names shortened.
    """
    text = escape_controls(redact(name))
    if len(text) > MAX_LABEL_CHARACTERS:
        text = text[: MAX_LABEL_CHARACTERS - 1] + "…"
    text = text.replace("$", r"\$")
    # Matplotlib leaves labels that begin with an underscore out of the legend.
    return f" {text}" if text.startswith("_") else text


def style_axis(axis: Any, title: str, x_label: str) -> None:
    """Set title, axis label, grid and legend in the ink of the page."""
    axis.set_title(label(title), color=INK, fontsize=10)
    axis.set_xlabel(label(x_label), color=INK)
    axis.tick_params(colors=INK, which="both")
    axis.grid(alpha=0.2)
    # The legend goes below the panel, because bands leave no corner free. Long labels get a single
    # column: a wider legend would shrink the panel.
    longest = max((len(name) for name in axis.get_legend_handles_labels()[1]), default=0)
    axis.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        ncol=2 if longest <= TWO_COLUMN_CHARACTERS else 1,
        loc="upper left",
        bbox_to_anchor=(0, -0.2),
    )
    for spine in axis.spines.values():
        spine.set_color(INK)


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG text, the same bytes for the same numbers.

    ``name`` keeps what it defines apart from other figures of a page.
    """
    stream = io.StringIO()
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"micro-rm {label(name)}",
        "font.size": 9,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's own fonts draw a name; only its width is guessed here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    text = stream.getvalue()
    return themed(text[text.index("<svg") :])


def themed(figure: str) -> str:
    """Replace the colours of an SVG figure by CSS variables that fall back to these colours.

    Only tags change: a label may happen to spell a colour. Groups lose their ids, which would be
    the same in every figure of a page.
    """

    def tag(match: re.Match[str]) -> str:
        text = match.group()
        for colour, variable in CSS_VARIABLES.items():
            text = text.replace(colour, f"var({variable}, {colour})")
        return re.sub(r'^<g id="[^"]*"', "<g", text)

    return re.sub(r"<[^>]*>", tag, figure)
