"""``micro-rm sweep``: the command end to end, and mistakes that it reports before it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from micro_rm.display.report import SWEEP_PAGE
from micro_rm.heads.sweeps.table import read_sweep
from micro_rm.pipeline import main

FLAGS = [
    "--data.source=simulator",
    "--data.name=sim",
    "--data.simulator.pairs=200",
    "--data.simulator.test_pairs=80",
    "--data.simulator.width=8",
    "--views.adapt_head=plain",
    "--views.adapt_router=context",
    "--train.epochs=1",
    "--train.router=linear",
    "--train.validation_fraction=0.2",
    "--adapt.budget=6",
    "--adapt.pool=20",
    "--adapt.draws=2",
    "--adapt.epochs=2",
    "--sweep.grid={train.num_heads: [2, 3], run.seed: [0, 1]}",
]


def printed(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


@pytest.mark.long
def test_the_command_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan, a sweep, the same again as JSON."""
    argv = ["sweep", *FLAGS, f"--run.dir={tmp_path / 'run'}"]
    plan = printed(capsys, [*argv, "--dry_run"])
    assert "embed: done; 4 members of micro_stage1, micro" in plan
    assert not (tmp_path / "run").exists(), "a plan writes nothing"
    plan = json.loads(printed(capsys, [*argv, "--dry_run", "--json"]))
    assert plan == {"embedded": True, "members": 4}

    text = printed(capsys, argv)
    assert "sweep    4 of 4 members" in text and "done before" not in text
    assert "What does train.num_heads do?" in text and "a simulator drew vectors" in text
    found = read_sweep(tmp_path / "run")
    assert found is not None and len(found.labels) == 4
    assert {row["method"] for row in found.rows} >= {"micro_stage1", "micro"}
    assert all(row["error"] is None and 0 <= row["accuracy"] <= 1 for row in found.rows)
    adapted = [row for row in found.rows if row["method"] == "micro"]
    assert len(adapted) == 4 and all(row["validation_rows"] for row in adapted)
    page = (tmp_path / "run" / SWEEP_PAGE).read_text("utf-8")
    assert "sim: a sweep of 4 members" in page and "a simulator drew vectors" in page

    again = json.loads(printed(capsys, [*argv, "--json"]))
    assert (again["fitted"], again["before"], again["failed"]) == (0, 4, 0)
    report = json.loads(printed(capsys, ["report", *FLAGS, argv[-1], "--json"]))
    assert [entry["seeds"] for entry in report["sweep"]["best"]["micro"]] == [2, 2]
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["stages"]["sweep"]["before"] == 4 and "inputs" in record["stages"]["sweep"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sweep.grid={train.num_head: [2]}", "unknown key 'train.num_head'"),
        ("--sweep.methods=[nonsense]", "methods: expected all or some of"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, message: str
) -> None:
    assert main(["sweep", *FLAGS, flag, f"--run.dir={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("sweep*"))
