"""The result tables of the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from micro_rm.display.tables import attribute_table, best_method, headline_methods, method_table


def shown(table: Table, *, colour: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140, force_terminal=colour).print(table)
    return stream.getvalue()


def lines_of(table: Table) -> dict[str, list[str]]:
    """Words of every line by the first of them."""
    lines = [line.split() for line in shown(table).splitlines() if line.strip()]
    return {words[0]: words for words in lines}


def with_accuracy(report: dict[str, Any], name: str, like: str, accuracy: float) -> None:
    """Add a method with another one's numbers and its own macro accuracy."""
    entry = report["methods"][like]
    report["methods"][name] = {**entry, "macro": {**entry["macro"], "accuracy": accuracy}}


def test_every_method_is_a_row_with_interval_spread_loss_and_what_it_is_told(
    make_report: Any,
) -> None:
    report = make_report()
    lines = lines_of(method_table(report))
    assert " ".join(lines["method"]) == "method macro 95% interval seeds draws NLL given"
    assert list(lines)[1:] == list(report["methods"])
    for name, method in report["methods"].items():
        macro, spread = method["macro"], f"±{method['draws']['std']:.3f}"
        assert lines[name] == [
            name,
            f"{macro['accuracy']:.3f}",
            f"{macro['low']:.3f}-{macro['high']:.3f}",
            *([spread] if name == "micro" else []),  # the others have one draw
            f"{method['nll']:.3f}",
            "context" if name == "micro" else "prompt",
        ]


def test_the_best_method_is_bold_and_an_oracle_never_is(make_report: Any) -> None:
    report = make_report()
    with_accuracy(report, "micro_best_head_oracle", like="micro", accuracy=0.9999)
    assert best_method(report) == "micro"
    best = f"{report['methods']['micro']['macro']['accuracy']:.3f}"
    text = shown(method_table(report), colour=True)
    assert re.findall(r"\x1b\[1m *([0-9.]+) *\x1b", text) == [best]
    assert "1.000" in text


def test_best_heads_stand_below_their_owner(make_report: Any) -> None:
    report = make_report()
    for kind in ("oracle", "validated"):
        with_accuracy(report, f"static_mixture_best_head_{kind}", "static_mixture", 0.5)
    firsts = [line.split("  0")[0].rstrip() for line in shown(method_table(report)).splitlines()]
    place = firsts.index("static_mixture")
    assert firsts[place + 1 : place + 3] == ["  best validated head", "  oracle head"]
    assert firsts[place + 3] == "micro"


def test_an_accuracy_of_an_attribute_stands_beside_its_count_and_the_best_is_bold(
    make_report: Any,
) -> None:
    """Names in brackets are no markup of the terminal library, which swallows or refuses it."""
    names, shown_methods = ("[red]", "[/polite]"), ["single_bt", "static_mixture", "micro"]
    report = make_report(names=names)
    table = attribute_table(report, shown_methods)
    lines, coloured = lines_of(table), shown(table, colour=True).splitlines()
    assert lines["accuracy"] == ["accuracy", "n", *shown_methods]
    for attribute in names:
        cells = [report["methods"][name]["attributes"][attribute] for name in shown_methods]
        values = [f"{cell['accuracy']:.3f}" for cell in cells]
        assert lines[attribute] == [attribute, "40", *values]
        line = next(line for line in coloured if line.startswith(attribute))
        assert re.findall(r"\x1b\[1m *([0-9.]+) *\x1b", line) == [max(values)] == values[2:]


def test_the_headline_shows_the_reference_the_stages_of_micro_and_the_best(
    make_report: Any,
) -> None:
    report = make_report()
    assert headline_methods(report) == ["single_bt", "static_mixture", "micro"]
    with_accuracy(report, "vpl", like="micro", accuracy=0.999)
    with_accuracy(report, "micro_best_head_oracle", like="micro", accuracy=1.0)
    with_accuracy(report, "pal", like="micro", accuracy=0.3)
    assert headline_methods(report) == ["single_bt", "static_mixture", "micro", "vpl"]
