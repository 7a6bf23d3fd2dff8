"""Whatever a name or a text contains, the pages show it: nothing of it is run or followed."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from micro_rm.common.redact import MARK, escape_controls
from micro_rm.display.page import render_page, render_sweep_page
from micro_rm.tests.display.harmless import require_harmless

ATTACKS = {
    "script": "<script>alert('x')</script>",
    "quote": '"><img src=x onerror=alert(1)>',
    "single quote": "' onmouseover='alert(1)",
    "address": "javascript:alert(1)",
    "style": "</style></svg><style>*{background:url(https://evil.example)}</style>",
    "comment": "--><svg onload=alert(1)><!--",
    "cdata": "]]><a xlink:href='javascript:alert(1)'>x</a>",
    "template": "{{ 7*7 }}{% raw %}",
    "control": "a\x00b\x1b[2J\u202ec",
    "surrogate": "\ud800 and \udfff",
    "formula": r"$\frac{1}{0}$ $x $$ \$",
    "hidden": "_hidden",
    "scripts": "\u4f60\u597d \u05e9\u05dc\u05d5\u05dd 🙂",
}
TOKEN = "hf_" + "Ab1" * 9
CELL = {"accuracy": 0.5, "n": 3, "ties": 0, "low": 0.4, "high": 0.6}


def hostile_study(text: str) -> dict[str, Any]:
    point = {"x": 1.0, "mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5]}
    return {
        "title": text,
        "question": text,
        "reading": text,
        "seeds": 2,
        "x": {"label": text, "log": True},
        "metrics": {text: {text: [point, point | {"x": 10.0}]}},
    }


@pytest.mark.parametrize("text", ATTACKS.values(), ids=list(ATTACKS))
def test_a_report_shows_every_text_and_obeys_none(text: str, make_report: Any) -> None:
    account = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}
    report = make_report(text, (text, "polite"), account, say=lambda _: text)
    report["methods"][text] = report["methods"].pop("micro") | {"summary": text, "given": text}
    report["heads"][text] = report["heads"].pop("micro")
    report["gallery"]["method"] = text
    for item in report["comparisons"]:
        item |= {key: text for key in ("method", "against") if item[key] == "micro"}
    report["answers"] = [dict.fromkeys(("question", "standing", "answer", "detail"), text)]
    report["skipped"] = {text: text}
    for key in ("caveats", "warnings", "verdict"):
        report[key].append(text)
    report["record"] |= {"config": {text: [text, {"dir": f"{text}</pre>"}]}, "commit": text}
    report["record"]["versions"] = {text: text}
    report["account"] = {"sources": {text: {"rows": 1}}}
    report["published"] = [
        {
            "table": text,
            "title": text,
            "counts": [{"name": text, "published": 1, "ours": 2}],
            "notes": [{"about": text, "text": text}],
        }
    ]
    shown = {"text": text, "characters": len(text)}
    both = {"without": [0.5, 0.5], "with": [0.1, 0.9]}
    report["prompts"] = {"asked": text, "rows": [{"prompt": shown, "context": shown}]}
    report["prompts"]["rows"][0]["weights"] = {text: both}
    result = require_harmless(render_page(report, {}))
    assert result.words.count(escape_controls(text)) >= 66


def test_a_long_text_that_unfolds_is_as_harmless(make_report: Any) -> None:
    text = ATTACKS["script"] * 20
    result = require_harmless(render_page(make_report(say=lambda _: text), {}))
    assert result.words.count(text) >= 6


@pytest.mark.parametrize("kind", ["script", "quote", "template", "control", "surrogate"])
def test_a_sweep_shows_every_text_and_obeys_none(kind: str) -> None:
    text = ATTACKS[kind]
    mean = {"mean": 0.5, "low": None}
    entry = {"settings": {text: text}, "seeds": 1, "validation_nll": None, "validation_rows": 0}
    sweep = {
        "members": 1,
        "keys": [text],
        "failed": [{"settings": text, "error": text}],
        "best": {text: [entry | {"accuracy": mean, "nll": mean}]},
        "studies": {},
    }
    result = require_harmless(render_sweep_page(sweep, text, [text], 0.95))
    assert result.words.count(escape_controls(text)) >= 8


def test_pages_with_figures_of_hostile_names_are_harmless_too(make_report: Any) -> None:
    report = make_report()
    text = " ".join(ATTACKS.values())
    report["studies"] = {text: hostile_study(text)}
    result = require_harmless(render_page(report, {text: {"objective": [1.0, 0.5]}}))
    assert result.words.count(escape_controls(text)) >= 7
    assert result.tags.count("svg") == 2 + 4  # a curve, a study, the calibration of four methods


@pytest.mark.long
@pytest.mark.parametrize("kind", ["script", "cdata", "control", "formula", "hidden", "scripts"])
def test_a_figure_is_well_formed_and_its_labels_are_text(kind: str) -> None:
    from micro_rm.display.plots import study_curves

    text = ATTACKS[kind]
    study = hostile_study(text)
    study["x"]["log"] = False
    (figure,) = study_curves(study)
    root = ElementTree.fromstring(figure)  # XML: one wrong character and this fails
    words = [node.text for node in root.iter() if node.tag.endswith("}text")]
    assert sum(escape_controls(text).strip() == (word or "").strip() for word in words) == 3


def test_no_secret_is_on_a_page(make_report: Any) -> None:
    report = make_report(dataset=TOKEN)
    report["skipped"] = {"pal": f"the hub said {TOKEN}"}
    page = render_page(report, {TOKEN: {"objective": [1.0, 0.5]}})
    assert TOKEN not in page and page.count(MARK) >= 3
