"""report.html: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from micro_rm.display.page import render_page, shade
from micro_rm.heads.evaluation.diagnostics import flags
from micro_rm.tests.display.harmless import Page

CURVES = {
    "micro": {"cross_entropy": np.array([1.0, 0.5])},
    "single_bt": {"objective": np.array([0.7, 0.6]), "validation_nll": np.array([np.nan, np.nan])},
}


@pytest.fixture(scope="module")
def page(make_report: Any) -> str:
    return render_page(make_report(), CURVES)


def test_the_page_names_and_counts_what_the_report_does(page: str, make_report: Any) -> None:
    report, text = make_report(), Page(page).text
    for name, method in report["methods"].items():
        assert f"What {name} does." in text and f"{method['macro']['accuracy']:.3f}" in text
        for attribute, cell in method["attributes"].items():
            assert attribute in text
            assert f"{cell['accuracy']:.3f}" in text and f"n = {cell['n']}" in text
    assert text.count("Mean of 2 draws") == 1  # of micro
    for words in ("tiny", "80 held-out pairs over 40 prompts, seed 3"):
        assert words in text
    for sentence in (*report["verdict"], *report["caveats"]):
        assert sentence in text
    assert re.findall(r"Heads of (\w+)", text) == ["micro", "static_mixture"]


def test_the_best_of_a_column_is_marked_and_an_oracle_wins_none(make_report: Any) -> None:
    """micro wins the macro and both attributes of the fixture."""
    report = make_report()
    cells = report["methods"]["micro"]["attributes"]
    perfect = {name: cell | {"accuracy": 1.0} for name, cell in cells.items()}
    oracle = {"micro_best_head_oracle": report["methods"]["micro"] | {"attributes": perfect}}
    for others in ({}, oracle):
        report["methods"] |= others
        page = render_page(report, {})
        row = page[page.index('<th scope="row">micro</th>') :]
        row = row[: row.index("</tr>")]
        assert row.count('class="win"') == page.count('class="win"') == 3


def test_curves_are_drawn_where_there_are_any(page: str, make_report: Any) -> None:
    svg = page[page.index('<h2 id="training">') :]
    assert svg.count("<svg") == 2  # the validation NLL was never measured
    assert ">objective</text>" in svg and ">cross entropy</text>" in svg
    plain = render_page(make_report(), {})
    training = plain[plain.index('<h2 id="training">') :]
    assert "<svg" not in training and "No method of this run has kept a curve." in training


def test_a_cell_is_blue_above_the_middle_and_red_below() -> None:
    assert [shade(value, 0.0, 1.0) for value in (0.0, 0.5, 0.75, 7.0)] == [
        "rgba(212, 99, 59, 0.75)",
        "rgba(212, 99, 59, 0.00)",
        "rgba(59, 111, 212, 0.38)",
        "rgba(59, 111, 212, 0.75)",
    ]


def test_the_page_says_what_every_method_is_told_and_learns_from(make_report: Any) -> None:
    report = make_report()
    page = render_page(report, {})
    table = page[page.index('<h2 id="methods">') : page.index('<h2 id="differences">')]
    cells = dict(re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td>', table))
    assert cells == {name: "context" if name == "micro" else "prompt" for name in report["methods"]}
    assert "2 draws of 7 labelled rows per attribute" in page
    assert "never scored in that draw" not in page
    report["budget"] |= {"source": "test", "group": "user"}
    other = render_page(report, {})
    assert "7 labelled rows per user" in other
    assert "from the test rows" in other
    assert "has labelled it, or a row with its prompt or response" in other


def test_an_interval_that_cannot_be_had_is_too_few(make_report: Any) -> None:
    report = make_report()
    report["methods"]["micro"]["macro"]["few"] = True
    assert re.findall(r"<small>too few</small>", render_page(report, {})) == [
        "<small>too few</small>"
    ]


def test_flags_are_warnings_on_the_page(make_report: Any) -> None:
    """Collapsed heads, unused heads and deaf routers, as ``diagnostics.flags`` words them."""
    report = make_report()
    report["heads"]["micro"] |= {"usage": [1.0, 0.0], "routing_nats": 0.0}
    report["heads"]["static_mixture"]["correlation"] = [[1.0, 1.0], [1.0, 1.0]]
    result = flags(report["heads"], owners=["static_mixture"], routers=["micro"])
    assert len(result) == 3
    assert 'class="warn"' not in render_page(report, {})
    report["warnings"] = result
    text = render_page(report, {})
    assert text.count('class="warn"') == 3
    for sentence in result:
        assert sentence in Page(text).words


def test_the_page_says_which_differences_are_beyond_noise(make_report: Any) -> None:
    report = make_report()
    standings = ["worse", "few", "noise", "better"]
    for item, standing in zip(report["comparisons"], standings, strict=True):
        item["standing"] = standing
    page = render_page(report, {})
    table = page[page.index('<h2 id="differences">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td>.*<td>([\w ]+)</td></tr>', table)
    words = {"better": "better", "worse": "worse", "noise": "no", "few": "too few to say"}
    assert rows == [
        (item["method"], item["against"], words[item["standing"]]) for item in report["comparisons"]
    ]


def test_published_tables_stand_beside_ours_with_a_verdict_in_words(make_report: Any) -> None:
    cell = {"published": 0.71, "ours": 0.64, "low": 0.6, "high": 0.68, "verdict": "below"}
    alone = {"published": 0.5, "ours": None, "verdict": "no counterpart"}
    report = make_report()
    report["published"] = [
        {
            "table": "table2",
            "title": "Somewhere <b>",
            "attributes": ["brief"],
            "rows": [
                {"name": "Single", "ours": "single_bt", "cells": {"brief": alone}, "average": cell}
            ],
            "notes": [{"about": "rows", "text": "Not the same test set."}],
        },
        {
            "table": "table5",
            "title": "Counts",
            "counts": [{"name": "brief train", "published": 10, "ours": 7}],
            "notes": [],
        },
    ]
    page = render_page(report, {})
    for words in ("0.710<br><strong>0.640</strong>", "<small>below</small>", "0.500<br>–"):
        assert words in page
    assert "Somewhere &lt;b&gt;" in page and "Not the same test set." in page
    assert "<td>10</td><td>7<small>-3</small></td>" in page


def test_sources_and_benchmark_sections_are_shown_where_there_are_any(make_report: Any) -> None:
    report = make_report()
    plain = render_page(report, {})
    assert "What was read of every source" not in plain and "RewardBench" not in plain
    report["account"] = {"sources": {"rpr": {"rows": 44, "left_out": 16, "leaked": 3}}}
    span = {"accuracy": 0.9, "low": 0.8, "high": 1.0}
    sections = {"macro": span, "attributes": {"Chat": span | {"n": 5}}}
    report["benchmark"] = {
        "name": "RewardBench",
        "methods": {name: sections for name in report["methods"]},
        "official": {name: {"Chat": 0.875, "total": 0.75} for name in report["methods"]},
    }
    page = render_page(report, {})
    assert '<th scope="row">rpr</th><td>44</td><td>16</td><td>3</td>' in page
    assert "official 0.875" in page and "official 0.750" in page
