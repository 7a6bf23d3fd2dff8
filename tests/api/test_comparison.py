"""Runs compared from Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import micro_rm as mrm
from micro_rm.pipeline import main
from micro_rm.tests.api.conftest import TINY


@pytest.fixture(scope="module")
def other(table: mrm.Table, tmp_path_factory: pytest.TempPathFactory) -> mrm.Run:
    """A run with another K and three seeds."""
    folder = tmp_path_factory.mktemp("other") / "k2"
    run = mrm.train(
        table, ["single_bt", "micro"], num_heads=2, dir=folder, settings=TINY | {"train.seeds": 3}
    )
    run.evaluate()
    return run


def test_runs_are_compared_method_by_method_with_what_differs(run: mrm.Run, other: mrm.Run) -> None:
    run.evaluate()
    comparison = mrm.compare(run, other.dir, methods=["micro"])
    first, second = run.dir.name, other.dir.name
    (row,) = comparison.rows()
    assert (row["method"], row["against"]) == (f"{second}: micro", f"{first}: micro")
    accuracies = [
        one.evaluate()["micro"]["seeds"]["macro"][:2] for one in (other, run)
    ]  # both have two seeds
    assert row["difference"] == pytest.approx(
        sum(accuracies[0]) / 2 - sum(accuracies[1]) / 2, abs=1e-9
    )
    assert comparison.content["settings"]["train.num_heads"] == {first: 3, second: 2}
    assert "run.dir" not in comparison.content["settings"]
    text = str(comparison)
    assert "Differences are over the first 2 seeds" in text and "train.num_heads" in text
    (axis,) = comparison.plot().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        f"{second}: micro\nfrom {first}: micro"
    ]


def test_the_command_prints_the_tables_and_writes_numbers_and_plot(
    run: mrm.Run, other: mrm.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.evaluate()
    runs = [str(run.dir), str(other.dir)]
    assert main(["compare", *runs, f"--compare.dir={tmp_path / 'out'}"]) == 0
    assert f"from {run.dir.name}: single_bt" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert content["rows"] > 0 and content["runs"][other.dir.name] == str(other.dir)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_says_why(run: mrm.Run, tmp_path: Path) -> None:
    with pytest.raises(mrm.UserError, match="expected two or more runs, found 1"):
        mrm.compare(run)
    with pytest.raises(mrm.UserError, match="no run here"):
        mrm.compare(run, tmp_path)
