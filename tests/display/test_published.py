"""Our numbers beside the published ones, as a terminal shows them."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from micro_rm.display.published import comparison_tables
from micro_rm.heads.evaluation.compare import compare
from micro_rm.tests.heads.evaluation.published_reports import TABLES, report_of


def shown(comparison: dict[str, Any]) -> list[str]:
    """The lines of a terminal of 80 columns."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, markup=False, highlight=False)
    for part in comparison_tables(comparison):
        console.print(part)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("name", ["table3", "table8"])  # the widest, and one of best heads
def test_a_terminal_of_80_columns_shows_every_number_and_note(name: str) -> None:
    methods = {row["ours"]: 0.0 for row in TABLES[name]["rows"] if row["ours"]}
    comparison = compare(report_of(name, methods), name)
    text = "\n".join(shown(comparison))
    assert "…" not in text
    for row in comparison["rows"]:
        cells = row["cells"].values() if row["ours"] in methods else ()
        for cell in (*cells, row["average"]):
            assert f"{cell['published']:.3f}" in text
    assert " = " in re.sub(r"\s+", " ", text) + " "
    for note in comparison["notes"]:
        assert note["text"][:30] in re.sub(r"\s+", " ", text)


def test_a_sign_stands_for_every_verdict_and_a_name_for_every_method() -> None:
    report = report_of("table2", {"single_bt": 0.0, "micro": 0.2, "hyre": -0.2})
    lines = shown(compare(report, "table2"))
    signs = {"Single Reward (single_bt)": "=", "MiCRo (micro)": "+", "HyRe (hyre)": "-"}
    for heading, sign in signs.items():
        start = next(index for index, line in enumerate(lines) if line.startswith(heading))
        average = next(line for line in lines[start:] if line.startswith("average"))
        assert average.split()[-1] == sign


def test_a_terminal_shows_published_ours_and_interval_and_why_a_row_has_none() -> None:
    report = report_of("table2", {"single_bt": 0.1})
    del report["methods"]["single_bt"]["attributes"]["verbosity"]
    lines = shown(compare(report, "table2"))
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["Single"][-3:] == ["published", "ours", "interval"]
    assert rows["helpfulness"] == ["0.784", "0.884", "0.864-0.903", "+"]
    assert rows["verbosity"] == ["0.882", "-"]
    assert "ARMO (8B): average 0.711; nothing here is that" in lines
    assert "MiCRo: average 0.783; micro is not in this run" in lines
    assert any(line.startswith("+ above, = within noise, - below") for line in lines)


def test_a_terminal_shows_counts_and_by_how_much_they_differ() -> None:
    counts = {"verbosity": {"train": 4584, "test": 750}}
    comparison = compare({"account": {"attributes": counts}}, "table5")
    lines = [line.split()[-3:] for line in shown(comparison) if line.startswith("helpsteer2")]
    assert lines == [["4,584", "4,584", "="], ["754", "750", "-4"]]
    assert any(line.startswith("unanimous agreement: ") for line in shown(comparison))
