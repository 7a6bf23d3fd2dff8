"""Training curves as SVG text."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from micro_rm.display.plots import COLOURS, INK, training_curves, y_limits


def test_no_curve_is_no_figure() -> None:
    assert training_curves({}) == []
    assert training_curves({"micro": {}, "drm": {"objective": [np.nan, np.nan]}}) == []


def test_every_kind_is_a_figure_and_every_method_a_line_in_its_legend() -> None:
    figures = training_curves(
        {
            "single_bt": {"objective": [0.7, 0.6], "validation_nll": [0.7, 0.65]},
            "micro": {"cross_entropy": np.linspace(1, 0, 20).tolist()},
        }
    )
    roots = [ElementTree.fromstring(figure) for figure in figures]
    name = "{http://www.w3.org/2000/svg}text"
    texts = [element.text for root in roots for element in root.iter(name)]
    assert len(figures) == 3
    for title in ("objective", "validation NLL", "cross entropy"):
        assert texts.count(title) == 1
    assert texts.count("single_bt") == 2
    assert texts.count("micro") == 1
    assert texts.count("epoch") == 3


def test_colours_are_the_pages_own_and_labels_are_left_alone() -> None:
    """A reader on dark paper needs other shades; a method may be called like a colour."""
    (svg,) = training_curves({COLOURS[0]: {"objective": [1.0, 0.5]}})
    root = ElementTree.fromstring(svg)
    assert COLOURS[0] in [element.text for element in root.iter()]
    styles = [element.get("style", "") for element in root.iter()]
    assert any(f"stroke: var(--c1, {COLOURS[0]})" in style for style in styles)
    assert not any(f": {INK}" in style for style in styles)


def test_the_same_curves_give_the_same_bytes_and_share_no_names_between_figures() -> None:
    """A marker that is defined in a folded part of the page would not be drawn elsewhere."""
    curves = {"micro": {"objective": [1.0, 0.5], "cross_entropy": [1.0, 0.5]}}
    figures = training_curves(curves)
    assert figures == training_curves(curves)
    names = [re.findall(r' id="([^"]+)"', figure) for figure in figures]
    assert all(names) and not set(names[0]) & set(names[1])


def test_more_methods_than_colours_are_all_drawn() -> None:
    (svg,) = training_curves({f"method {n}": {"objective": [1.0, n]} for n in range(9)})
    assert all(f">method {n}</text>" in svg for n in range(9))


def banded(mean: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"x": 1.0, "mean": mean, "low": low, "high": high, "values": [mean]}


@pytest.mark.parametrize(
    ("half", "bottom", "top"),
    [
        (0.05, 0.55 - 0.015, 0.85 + 0.015),  # bands fit
        (9.0, 0.5 - 0.02, 0.9 + 0.02),  # two seeds: cut at half the range of the curves
        (None, 0.6 - 0.01, 0.8 + 0.01),
    ],
)
def test_wide_bands_do_not_flatten_the_curves(
    half: float | None, bottom: float, top: float
) -> None:
    series = {"micro": [banded(0.6, half), banded(0.8, half)]}
    assert y_limits(series) == pytest.approx((bottom, top))
    assert y_limits({"micro": [banded(0.6, half)]}) is None


def test_a_legend_of_long_names_makes_no_panel_smaller() -> None:
    def width(*names: str) -> float:
        (figure,) = training_curves({name: {"objective": [1.0, 0.5]} for name in names})
        return float(ElementTree.fromstring(figure).attrib["viewBox"].split()[2])

    long = ("best head of micro_stage1, validated", "best head of micro_stage1, oracle")
    assert width(*long) == pytest.approx(width("a", "b"), rel=0.02)
