"""The result table of the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from micro_rm.heads.evaluation.display import method_table


def shown(report: dict[str, Any], *, colour: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140, force_terminal=colour).print(method_table(report))
    return stream.getvalue()


def test_every_accuracy_stands_beside_its_count(make_report: Any) -> None:
    """G-E5: counts printed with every accuracy."""
    report = make_report()
    lines = {line.split()[0]: line.split() for line in shown(report).splitlines() if line.strip()}
    assert lines["accuracy"] == ["accuracy", "n", "single_bt", "static_mixture", "micro"]
    for attribute in ("brief", "polite"):
        values = [m["attributes"][attribute]["accuracy"] for m in report["methods"].values()]
        assert lines[attribute] == [attribute, "40", *(f"{value:.3f}" for value in values)]
    macros = [method["macro"]["accuracy"] for method in report["methods"].values()]
    assert lines["macro"] == ["macro", "80", *(f"{value:.3f}" for value in macros)]


def test_interval_oracle_and_loss_are_shown_for_every_method(make_report: Any) -> None:
    report = make_report()
    text = shown(report)
    assert "95% interval" in text
    for name, method in report["methods"].items():
        assert f"{method['macro']['low']:.3f}-{method['macro']['high']:.3f}" in text
        assert f"{method['nll']:.3f}" in text
        assert f"{report['heads'][name]['best_head_oracle']:.3f}" in text


def test_the_best_of_a_row_is_bold(make_report: Any) -> None:
    report = make_report()
    best = f"{report['methods']['micro']['macro']['accuracy']:.3f}"
    macro = next(line for line in shown(report, colour=True).splitlines() if "macro" in line)
    assert re.search(rf"\x1b\[1m *{best}\x1b", macro)
    assert macro.count("\x1b[1m") == 1


def test_a_name_in_brackets_is_shown_as_it_is(make_report: Any) -> None:
    """Not as markup of the terminal library, which swallows or refuses it."""
    text = shown(make_report(names=("[red]", "[/polite]")))
    assert "[red]" in text
    assert "[/polite]" in text


def test_a_validated_head_that_nobody_could_choose_is_a_dash(make_report: Any) -> None:
    report = make_report()
    report["heads"]["micro"]["best_head_validated"] = 0.625
    (line,) = (line for line in shown(report).splitlines() if "best head (valid.)" in line)
    assert line.split()[-3:] == ["-", "-", "0.625"]
