"""report.html: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from micro_rm.display.page import render_page, shade
from micro_rm.heads.evaluation.diagnostics import flags
from micro_rm.heads.evaluation.verdict import standing

CURVES = {
    "micro": {"cross_entropy": np.array([1.0, 0.5])},
    "single_bt": {"objective": np.array([0.7, 0.6]), "validation_nll": np.array([np.nan, np.nan])},
}
ATTACK = "<script>alert('x')</script>"
LOADING = {"src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster"}


class Page(HTMLParser):
    """Tags, attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(make_report: Any) -> str:
    return render_page(make_report(), CURVES)


def test_the_page_names_every_method_attribute_and_head(page: str) -> None:
    text = " ".join(Page(page).words)
    for word in ("single_bt", "static_mixture", "micro", "brief", "polite", "tiny"):
        assert word in text
    for name in ("length_only", "single_bt", "static_mixture", "micro"):
        assert f"What {name} does." in text
    assert text.count("Mean of 2 draws") == 1  # of micro


def test_the_page_shows_the_numbers_of_the_report(page: str, make_report: Any) -> None:
    report = make_report()
    text = " ".join(Page(page).words)
    for method in report["methods"].values():
        assert f"{method['macro']['accuracy']:.3f}" in text
        for cell in method["attributes"].values():
            assert f"{cell['accuracy']:.3f}" in text
            assert f"n = {cell['n']}" in text
    assert "80 held-out pairs over 40 prompts, seed 3" in " ".join(text.split())
    for sentence in (*report["verdict"], *report["caveats"]):
        assert sentence in text


def test_the_page_says_what_every_method_is_told_and_learns_from(make_report: Any) -> None:
    report = make_report()
    page = render_page(report, {})
    table = page[page.index('<h2 id="methods">') : page.index('<h2 id="differences">')]
    cells = dict(re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td>', table))
    assert cells == {name: "wish" if name == "micro" else "prompt" for name in report["methods"]}
    assert "2 draws of 7 labelled rows per attribute" in page
    assert "never scored in that draw" not in page
    report["budget"] |= {"source": "test", "group": "user"}
    other = render_page(report, {})
    assert "7 labelled rows per user" in other
    assert "from the test rows, never scored in that draw" in other


def test_only_methods_that_read_the_wish_show_an_interval_over_wordings(make_report: Any) -> None:
    report = make_report()
    for number, entry in enumerate(report["methods"].values()):
        entry["wordings"] = {"count": 4, "low": number / 10, "high": 0.9}
    assert re.findall(r"<small>wordings ([0-9.–]+)</small>", render_page(report, {})) == [
        "0.300–0.900"  # micro is the last of the four
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
        assert sentence in " ".join(Page(text).words)


def test_the_page_says_which_differences_are_beyond_noise(page: str, make_report: Any) -> None:
    table = page[page.index('<h2 id="differences">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td>.*<td>(\w+)</td></tr>', table)
    words = {"better": "better", "worse": "worse", "noise": "no"}
    assert rows == [
        (item["method"], item["against"], words[standing(item)])
        for item in make_report()["comparisons"]
    ]
    assert {row[2] for row in rows} == {"better", "worse", "no"}


def test_only_methods_with_several_heads_get_a_table_of_heads(page: str) -> None:
    assert "Heads of micro" in page
    assert "Heads of static_mixture" in page
    assert "Heads of single_bt" not in page


def test_the_best_of_a_column_is_marked(page: str) -> None:
    """micro wins the macro and both attributes of the fixture."""
    row = page[page.index('<th scope="row">micro</th>') :]
    row = row[: row.index("</tr>")]
    assert row.count('class="win"') == page.count('class="win"') == 3


def test_an_oracle_wins_no_column(make_report: Any) -> None:
    report = make_report()
    perfect = {**report["methods"]["micro"], "attributes": {}}
    for name, cell in report["methods"]["micro"]["attributes"].items():
        perfect["attributes"][name] = {**cell, "accuracy": 1.0}
    report["methods"]["micro_best_head_oracle"] = perfect
    page = render_page(report, {})
    row = page[page.index('<th scope="row">micro</th>') :]
    row = row[: row.index("</tr>")]
    assert row.count('class="win"') == page.count('class="win"') == 3


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    """No script, no link, no address in any attribute that a browser follows, none in any style."""
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name in LOADING:
            assert value.startswith("#"), (name, value)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?(.)", page))
    assert "default-src 'none'" in page


def test_the_curves_are_drawn_as_svg_with_a_line_per_method(page: str) -> None:
    svg = page[page.index('<h2 id="training">') :]
    assert svg.count("<svg") == 2  # the validation NLL was never measured
    for title in ("objective", "cross entropy"):
        assert f">{title}</text>" in svg


def test_names_cannot_smuggle_in_markup(make_report: Any) -> None:
    """Data set, attributes, heads, methods, reasons, warnings, record: text stays text."""
    account = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}
    report = make_report(dataset=ATTACK, names=(ATTACK, "polite & <b>kind</b>"), account=account)
    report["methods"][ATTACK] = report["methods"].pop("micro") | {"summary": ATTACK}
    report["heads"][ATTACK] = report["heads"].pop("micro")
    report["comparisons"] = []
    report["skipped"] = {"pal": ATTACK}
    report["caveats"].append(ATTACK)
    report["warnings"].append(ATTACK)
    report["verdict"].append(ATTACK)
    report["record"]["config"] = {"data": {"train": ATTACK + "</pre>"}}
    page = render_page(report, {ATTACK: CURVES["micro"]})
    parsed = Page(page)
    assert not {"script", "b"} & set(parsed.tags)
    assert "<script" not in page.lower()
    text = "".join(parsed.words)
    assert text.count(ATTACK) >= 8
    assert "polite & <b>kind</b>" in text


def test_a_report_without_curves_has_no_figure(make_report: Any) -> None:
    page = render_page(make_report(), {})
    training = page[page.index('<h2 id="training">') :]
    assert "<svg" not in training and "No method of this run has kept a curve." in training


@pytest.mark.parametrize(
    ("value", "colour"),
    [
        (0.5, "rgba(212, 99, 59, 0.00)"),
        (1.0, "rgba(59, 111, 212, 0.75)"),
        (0.0, "rgba(212, 99, 59, 0.75)"),
        (0.75, "rgba(59, 111, 212, 0.38)"),
        (7.0, "rgba(59, 111, 212, 0.75)"),
    ],
)
def test_a_cell_is_blue_above_the_middle_and_red_below(value: float, colour: str) -> None:
    assert shade(value, 0.0, 1.0) == colour


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
