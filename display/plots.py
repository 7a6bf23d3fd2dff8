"""Figures of the report as SVG text: the only place that draws with matplotlib."""

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

# Drawn with these; a page may give every one another shade for light and for dark paper, which
# ``themed`` leaves to its style sheet.
COLOURS = ("#3b6fd4", "#d4633b", "#2f9e6e", "#9a5bd0", "#b8860b", "#5f7d8c")
INK = "#808890"
SHADES = {INK: "--soft"} | {colour: f"--c{n}" for n, colour in enumerate(COLOURS, 1)}
SIDE_BY_SIDE = 24  # characters of the longest label of a legend with two columns
LONGEST = 80  # characters of a label; a longer one would push the panels out of the figure


def training_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """A figure per kind of curve (objective, validation NLL, cross-entropy), a line per method.

    Kinds without a finite value have none.
    """
    kinds = dict.fromkeys(
        kind for group in curves.values() for kind, line in group.items() if np.isfinite(line).any()
    )
    return [_training_curve(kind, curves) for kind in kinds]


def _training_curve(kind: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    with panel(kind) as (figure, axis):
        for (colour, line), (method, group) in zip(styles(), curves.items(), strict=False):
            if kind in group:
                values = np.asarray(group[kind], float)
                epochs = np.arange(1, values.size + 1)
                marker = "o" if values.size < 15 else None
                axis.plot(
                    epochs, values, line, color=colour, label=label(method), marker=marker, ms=3
                )
        dress(axis, kind.replace("_", " ").replace("nll", "NLL"), "epoch")
        return svg(figure)


def study_curves(study: Mapping[str, Any]) -> list[str]:
    """A figure per metric of a study, a line per series with its interval over seeds."""
    metrics = study["metrics"]
    names = list(dict.fromkeys(name for series in metrics.values() for name in series))
    style_of = dict(zip(names, styles(), strict=False))
    return [
        _study_curve(study["title"], metric, series, study["x"], style_of)
        for metric, series in metrics.items()
    ]


def _study_curve(
    title: str,
    metric: str,
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    x_axis: Mapping[str, Any],
    style_of: Mapping[str, tuple[str, str]],
) -> str:
    with panel(f"{title} {metric}") as (figure, axis):
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
        axis.set_ylim(view(series))
        dress(axis, metric, x_axis["label"])
        return svg(figure)


def view(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float] | None:
    """Bottom and top of a panel: what was measured, and bands up to half of its range beyond.

    Intervals of two or three seeds can be so wide that the curves would be flat lines among them.
    None where all is one number.
    """
    points = [point for group in series.values() for point in group]
    seen = [value for point in points for value in (point["mean"], *point["values"])]
    seen = [value for value in seen if np.isfinite(value)]
    if not seen or min(seen) == max(seen):
        return None
    low, high = min(seen), max(seen)
    room = (high - low) / 2
    known = [point for point in points if point["low"] is not None]
    bottom = max(min([low, *(point["low"] for point in known)]), low - room)
    top = min(max([high, *(point["high"] for point in known)]), high + room)
    margin = (top - bottom) / 20
    return bottom - margin, top + margin


def styles() -> Iterator[tuple[str, str]]:
    """Colours in turn; when they are used up, the same ones with dashed and dotted lines."""
    return ((colour, line) for line in itertools.cycle(("-", "--", ":")) for colour in COLOURS)


@contextmanager
def panel(name: str) -> Iterator[tuple[Figure, Any]]:
    """A figure with one panel, as wide as a phone shows without making its letters small.

    ``name`` keeps what it defines apart from other figures of a page.
    """
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with (
        plt.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": f"micro-rm {label(name)}", "font.size": 9}
        ),
        warnings.catch_warnings(),
    ):
        # The reader's own fonts draw a name; only its width is guessed here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure, axis = plt.subplots(figsize=(4.4, 3.1))
        yield figure, axis


def label(name: str) -> str:
    """A name as matplotlib is to show it: no formula between dollars, no control characters."""
    text = escape_controls(redact(name))
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # which would keep it out of the legend


def dress(axis: Any, title: str, x_label: str) -> None:
    """Title, labels, grid and legend in the page's own ink."""
    axis.set_title(label(title), color=INK, fontsize=10)
    axis.set_xlabel(label(x_label), color=INK)
    axis.tick_params(colors=INK, which="both")
    axis.grid(alpha=0.2)
    # Below the panel: bands leave no free corner inside. A wider legend would shrink the panel.
    longest = max((len(name) for name in axis.get_legend_handles_labels()[1]), default=0)
    axis.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        ncol=2 if longest <= SIDE_BY_SIDE else 1,
        loc="upper left",
        bbox_to_anchor=(0, -0.2),
    )
    for spine in axis.spines.values():
        spine.set_color(INK)


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same bytes for the same numbers; it is closed."""
    from matplotlib import pyplot as plt

    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    plt.close(figure)
    text = stream.getvalue()
    return themed(text[text.index("<svg") :])


def themed(figure: str) -> str:
    """The figure with its colours as variables of the page's style sheet, where it has any.

    Only what is inside of tags is replaced; a label is text, and keeps whatever it says. Groups
    lose their names, which would be the same in every figure of a page.
    """

    def tag(found: re.Match[str]) -> str:
        text = found.group()
        for colour, variable in SHADES.items():
            text = text.replace(colour, f"var({variable}, {colour})")
        return re.sub(r'^<g id="[^"]*"', "<g", text)

    return re.sub(r"<[^>]*>", tag, figure)
