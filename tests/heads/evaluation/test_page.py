"""report.html: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from micro_rm.heads.evaluation.page import render_page, shade

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
    summaries = {"micro": "Routed heads.", "single_bt": "One reward."}
    return render_page(make_report(), summaries, CURVES)


def test_the_page_names_every_method_attribute_and_head(page: str) -> None:
    text = " ".join(Page(page).words)
    for word in ("single_bt", "static_mixture", "micro", "brief", "polite", "tiny"):
        assert word in text
    assert "Routed heads." in text
    assert "Mean of 2 draws" in text
    # static_mixture has no summary: a page of another version still renders.
    assert "A method of another version of micro-rm." in text


def test_the_page_shows_the_numbers_of_the_report(page: str, make_report: Any) -> None:
    report = make_report()
    text = " ".join(Page(page).words)
    for method in report["methods"].values():
        assert f"{method['macro']['accuracy']:.3f}" in text
        for cell in method["attributes"].values():
            assert f"{cell['accuracy']:.3f}" in text
            assert f"n = {cell['n']}" in text
    assert "80 held-out pairs over 40 prompts, seed 3" in text
    for sentence in (*report["verdict"], *report["caveats"]):
        assert sentence in text


def test_only_methods_with_several_heads_get_a_table_of_heads(page: str) -> None:
    assert "Heads of micro" in page
    assert "Heads of static_mixture" in page
    assert "Heads of single_bt" not in page


def test_the_best_of_a_column_is_marked(page: str) -> None:
    """micro wins the macro and both attributes of the fixture."""
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
    assert page.count("<svg") == 1
    svg = page[page.index("<svg") : page.index("</svg>")]
    for title in ("objective", "validation NLL", "cross entropy"):
        assert f">{title}</text>" in svg


def test_names_cannot_smuggle_in_markup(make_report: Any) -> None:
    """Data set, attributes, heads, methods, reasons, warnings, record: text stays text."""
    account = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}
    report = make_report(dataset=ATTACK, names=(ATTACK, "polite & <b>kind</b>"), account=account)
    report["methods"][ATTACK] = report["methods"].pop("micro")
    report["heads"][ATTACK] = report["heads"].pop("micro")
    report["skipped"] = {"pal": ATTACK}
    report["caveats"].append(ATTACK)
    report["warnings"].append(ATTACK)
    report["verdict"].append(ATTACK)
    report["record"]["config"] = {"data": {"train": ATTACK + "</pre>"}}
    page = render_page(report, {ATTACK: ATTACK}, {ATTACK: CURVES["micro"]})
    parsed = Page(page)
    assert not {"script", "b"} & set(parsed.tags)
    assert "<script" not in page.lower()
    text = "".join(parsed.words)
    assert text.count(ATTACK) >= 8
    assert "polite & <b>kind</b>" in text


def test_a_report_without_curves_has_no_figure(make_report: Any) -> None:
    page = render_page(make_report(), {}, {})
    assert "<svg" not in page
    assert "<h2>Training</h2>" in page


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


def test_the_best_single_heads_are_labelled_validated_and_oracle(make_report: Any) -> None:
    report = make_report()
    assert "chosen on validation rows" not in render_page(report, {}, {})
    for heads in report["heads"].values():
        heads["best_head_validated"] = 0.123
    page = render_page(report, {}, {})
    assert "chosen on validation rows, gives a macro accuracy of 0.123." in page
    oracle = report["heads"]["micro"]["best_head_oracle"]
    assert f"would give {oracle:.3f}, an upper bound" in page
