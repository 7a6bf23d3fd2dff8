"""Figures of the report as SVG text: the only place that draws with matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# The page's own colours: readable on light and on dark paper.
COLOURS = ("#3b6fd4", "#d4633b", "#2f9e6e", "#9a5bd0", "#b8860b", "#5f7d8c")
INK = "#808890"


def training_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """One panel per kind of curve (objective, validation NLL, cross-entropy), a line per method."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(kind for group in curves.values() for kind in group))
    if not kinds:
        return ""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "micro-rm", "font.size": 9}):
        figure, axes = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds), 2.7), squeeze=False)
        for axis, kind in zip(axes[0], kinds, strict=True):
            for colour, (method, group) in zip(
                itertools.cycle(COLOURS), curves.items(), strict=False
            ):
                if kind in group:
                    values = np.asarray(group[kind], float)
                    epochs = np.arange(1, values.size + 1)
                    marker = "o" if values.size < 15 else None
                    axis.plot(epochs, values, color=colour, label=method, marker=marker, ms=3)
            axis.set_title(kind.replace("_", " ").replace("nll", "NLL"), color=INK, fontsize=10)
            axis.set_xlabel("epoch", color=INK)
            axis.tick_params(colors=INK)
            axis.grid(alpha=0.2)
            axis.legend(frameon=False, fontsize=8, labelcolor=INK)
            for spine in axis.spines.values():
                spine.set_color(INK)
        figure.tight_layout()
        return _svg(figure)


def _svg(figure: Figure) -> str:
    from matplotlib import pyplot as plt

    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
