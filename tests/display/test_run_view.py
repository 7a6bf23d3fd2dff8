"""``micro-rm inspect RUN``: methods as bars, or what is still to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.draw import BAR
from micro_rm.cache.schema import StoreError
from micro_rm.display.run_view import describe_run
from micro_rm.pipeline import main

RECORD = {
    "config": {"data": {"name": "tiny"}, "backbone": {"name": "encoder"}},
    "seed": 3,
    "versions": {"micro-rm": "0.2.0"},
    "stages": {"train": {"seconds": 12.4}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_a_run_is_drawn_with_a_bar_per_method(
    run: Path, make_report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report()
    report["methods"]["micro"]["macro"]["accuracy"] = 0.75
    report["methods"]["single_bt"]["macro"]["accuracy"] = 0.4
    report["warnings"] = ["Look out."]
    (run / "report.json").write_text(json.dumps(report))
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    lines = {words[0]: words for line in shown.splitlines() if (words := line.split())}
    assert lines["micro"] == ["micro", "0.750", "█" * (BAR // 2)]
    assert lines["single_bt"] == ["single_bt", "0.400"]  # below chance there is nothing to draw
    assert "80 rows over 40 prompts" in shown and "train 12 s" in shown
    assert report["verdict"][0] in shown and "warning  Look out." in shown


def test_an_unfinished_run_says_what_comes_next(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "record.json").write_text(json.dumps(RECORD | {"running": "adapt"}))
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "adapt was begun and has not finished" in shown and "next is micro-rm adapt" in shown


def test_json_is_complete(run: Path, make_report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(json.dumps(make_report()))
    (run / "report.json").write_text(json.dumps(report))
    assert main(["inspect", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["record"], result["report"], result["page"]) == (RECORD, report, None)


@pytest.mark.parametrize("damaged", ["{", "{}"])
def test_a_damaged_run_is_an_error_that_names_the_file(run: Path, damaged: str) -> None:
    (run / "report.json").write_text(damaged)
    with pytest.raises(StoreError, match=r"report\.json: .*run micro-rm run again"):
        describe_run(run)
