"""report.html in a real Chromium: quiet, alone, as wide as its window, and used by keyboard.

Skipped, with that reason, where there is no Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from micro_rm.display.page import render_page
from micro_rm.tests.browser.chromium import Chromium, find_chromium

BINARY = find_chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")

WORD = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 3
SENTENCE = "A rather long answer that goes on and on, as answers do. " * 12
CURVES = {"micro": {"objective": [1.0, 0.5, 0.4]}}
NARROW, WIDE = 375, 1280


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert BINARY is not None
    with Chromium(BINARY, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(make_report: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plain report, and ones with what a layout may break on."""
    study = {
        "title": "Number of heads",
        "question": "How many?",
        "reading": "Two.",
        "seeds": 2,
        "x": {"label": "K", "log": True},
        "metrics": {
            "macro accuracy": {
                "micro": [
                    {"x": x, "mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5]}
                    for x in (1.0, 10.0)
                ]
            }
        },
    }
    long = make_report(WORD, (WORD, "كن مهذبا من فضلك"), say=lambda t: f"{t} {WORD} {SENTENCE}")
    long["warnings"] = [WORD, SENTENCE]
    shown = {"text": f"{WORD} {SENTENCE}", "characters": len(WORD) + len(SENTENCE) + 1}
    weights = {"micro": {"without": [1.0, 0.0], "with": [0.0, 1.0]}}
    row = {"prompt": shown, "context": shown, "weights": weights}
    long["prompts"] = {"asked": "", "rows": [row]}
    long["studies"] = {"num_heads": study}
    long["record"] |= {
        "config": {"data": {"train": f"/data/{WORD}.jsonl"}, "backbone": {"name": WORD}},
        "versions": {"micro-rm": "0.2.0"},
        "commit": "0" * 40,
        "machine": {"cpus": 2},
        "stages": {"train": {"seconds": 1.0, "finished": "2026-01-01T00:00:00Z"}},
    }
    many = make_report()
    for entry in many["methods"].values():
        cell = entry["attributes"]["brief"]
        entry["attributes"] = {f"attribute number {n}": cell for n in range(40)}
    for heads in many["heads"].values():
        for key in ("accuracy", "weights"):
            row = heads[key]["brief"]
            heads[key] = {f"attribute number {n}": row for n in range(40)}
    bare = make_report(say=lambda _: "")
    bare["methods"] = {"length_only": bare["methods"]["length_only"]}
    bare |= {"heads": {}, "gallery": None, "comparisons": [], "verdict": [], "caveats": []}
    reports = {"plain": (make_report(), CURVES), "long": (long, CURVES | {WORD: CURVES["micro"]})}
    reports |= {"many": (many, {}), "bare": (bare, {})}
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in reports}
    for name, (report, curves) in reports.items():
        found[name].write_text(render_page(report, curves), "utf-8")
    return found


UNFOLDED = [(name, NARROW) for name in ("plain", "long", "many", "bare")]


@pytest.mark.parametrize(("name", "width"), [*UNFOLDED, ("long", WIDE), ("many", WIDE)])
def test_a_page_is_quiet_alone_and_no_wider_than_its_window(
    browser: Chromium, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width=width)
    # Everything unfolded is the worst case.
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("document.documentElement.clientWidth") == width
    assert complaints(browser) == []
    assert requests(browser) == [pages[name].as_uri()]


def test_the_browser_would_have_told_of_errors_requests_and_refusals(
    browser: Chromium, tmp_path: Path
) -> None:
    """What the test above looks for is seen where it is there."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\">"
        "<script>1</script><img src='missing.png'><div style='width: 2000px'>wide</div>"
    )
    browser.open(page, width=NARROW)
    assert browser.evaluate("document.documentElement.scrollWidth") > NARROW
    assert any("Content Security Policy" in text for text in complaints(browser))
    assert len(requests(browser)) == 2


def complaints(browser: Chromium) -> list[str]:
    """What a reader with the console open would see."""
    browser.evaluate("1")  # an answer comes behind what was reported before it
    kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    return [str(event["params"]) for event in browser.events if event["method"] in kinds]


def requests(browser: Chromium) -> list[str]:
    sent = [e["params"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    return [item["request"]["url"] for item in sent]


ROWS = """[...document.querySelectorAll('.sortable tbody tr')]
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
  .map(row => row.querySelector('th').innerText.trim())"""
FOCUSED = """(() => { const e = document.activeElement;
  return e.id || e.innerText?.trim().split('\\n')[0] || e.tagName; })()"""


def test_headings_sort_by_mouse_and_by_keyboard(
    browser: Chromium, pages: dict[str, Path], make_report: Any
) -> None:
    methods = make_report()["methods"]
    best = sorted(methods, key=lambda name: -methods[name]["macro"]["accuracy"])
    browser.open(pages["plain"], width=WIDE)
    assert browser.evaluate(ROWS) == list(methods)
    browser.evaluate("document.querySelector('#sort-macro').closest('label').click()")
    assert browser.evaluate(ROWS) == best != list(methods)
    browser.evaluate("document.querySelector('#sort-macro').focus()")
    browser.press("ArrowLeft", 37)
    assert browser.evaluate(FOCUSED) == "sort-order"
    assert browser.evaluate(ROWS) == list(methods)
    browser.press("ArrowRight", 39)
    assert browser.evaluate(ROWS) == best


def test_everything_that_can_be_used_is_reached_by_tab(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    """Links, the sorter, every visible summary; a summary opens by Enter, and focus is seen."""
    browser.open(pages["plain"], width=WIDE)
    expected = browser.evaluate(
        "[...document.querySelectorAll('a, summary, #sort-order')]"
        ".filter(e => e.checkVisibility()).length"
    )
    reached, summaries = set(), 0
    for _ in range(3 * expected):
        browser.press("Tab", 9)
        outline = "getComputedStyle(document.activeElement.closest('label') || "
        outline += "document.activeElement).outlineStyle"
        if browser.evaluate("document.activeElement.matches('a, summary, #sort-order')"):
            reached.add(browser.evaluate(FOCUSED))
            assert browser.evaluate(outline) == "solid"
            if browser.evaluate("document.activeElement.matches('summary')"):
                state = browser.evaluate("document.activeElement.parentElement.open")
                browser.press("Enter", 13)
                assert browser.evaluate("document.activeElement.parentElement.open") != state
                browser.press("Enter", 13)
                summaries += 1
    texts = browser.evaluate(
        "[...document.querySelectorAll('a, summary')].filter(e => e.checkVisibility())"
        ".map(e => e.innerText.trim().split('\\n')[0])"
    )
    assert reached == {*texts, "sort-order"} and summaries > 5


def test_dark_and_light_are_other_pages_and_paper_is_light(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        browser.open(pages["plain"], width=WIDE, scheme=scheme, media=media)
        seen[scheme + media] = browser.evaluate(background)
    assert seen == {
        "light": "rgb(255, 255, 255)",
        "dark": "rgb(19, 23, 27)",
        "darkprint": "rgb(255, 255, 255)",
    }


def test_print_shows_what_is_folded_but_the_record(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    shown = (
        "[...document.querySelectorAll('details:not([open])')].map(d =>"
        "[d.className, d.lastElementChild.checkVisibility({contentVisibilityAuto: true})])"
    )
    browser.open(pages["plain"], width=WIDE, media="print")
    folded = browser.evaluate(shown)
    assert len(folded) > 3
    assert all(visible == (kind != "record") for kind, visible in folded)


# What stands on what, by the style sheet: text, its ground.
PAIRS = [
    (text, ground)
    for text in ("ink", "soft", "accent", "good", "bad")
    for ground in ("paper", "tint")
] + [("ink", "caution")]
SHADES = ["rgba(59, 111, 212, 0.75)", "rgba(212, 99, 59, 0.75)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(
    browser: Chromium, pages: dict[str, Path], scheme: str
) -> None:
    browser.open(pages["plain"], width=WIDE, scheme=scheme)
    style = "getComputedStyle(document.documentElement).getPropertyValue"

    def colour(name: str) -> tuple[float, ...]:
        value = browser.evaluate(f"{style}('--{name}')").strip().lstrip("#")
        return tuple(int(value[place : place + 2], 16) for place in (0, 2, 4))

    for text, ground in PAIRS:
        assert contrast(colour(text), colour(ground)) >= 4.5, (text, ground)
    for shade in SHADES:  # the strongest cell of a heat map
        *rgb, alpha = map(float, re.findall(r"[\d.]+", shade))
        mixed = tuple(
            alpha * top + (1 - alpha) * under
            for top, under in zip(rgb, colour("paper"), strict=True)
        )
        assert contrast(colour("ink"), mixed) >= 4.5, shade
    for number in range(1, 7):  # lines and marks
        assert contrast(colour(f"c{number}"), colour("paper")) >= 3, number


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Contrast ratio of WCAG 2."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
