"""Training curves as SVG text."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from micro_rm.heads.evaluation.plots import training_curves


def test_no_curve_is_no_figure() -> None:
    assert training_curves({}) == ""
    assert training_curves({"micro": {}}) == ""


def test_every_kind_is_a_panel_and_every_method_a_line_in_its_legend() -> None:
    svg = training_curves(
        {
            "single_bt": {"objective": [0.7, 0.6], "validation_nll": [0.7, 0.65]},
            "micro": {"cross_entropy": np.linspace(1, 0, 20).tolist()},
        }
    )
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for title in ("objective", "validation NLL", "cross entropy"):
        assert texts.count(title) == 1
    assert texts.count("single_bt") == 2
    assert texts.count("micro") == 1
    assert texts.count("epoch") == 3


def test_the_same_curves_give_the_same_bytes() -> None:
    """A report can be compared with an earlier one."""
    curves = {"micro": {"cross_entropy": [1.0, 0.5]}}
    assert training_curves(curves) == training_curves(curves)


def test_more_methods_than_colours_are_all_drawn() -> None:
    svg = training_curves({f"method {n}": {"objective": [1.0, n]} for n in range(9)})
    assert all(f">method {n}</text>" in svg for n in range(9))
