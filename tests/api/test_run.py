from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import micro_rm as mrm
from micro_rm.pipeline import main
from micro_rm.tests.api.conftest import METHODS, TINY


def flags(settings: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def test_python_and_the_command_line_give_the_same_numbers(
    run: mrm.Run, store: mrm.Store, files: Path, backbone_dir: Path, tmp_path: Path
) -> None:
    command = [
        "run",
        f"--methods={','.join(METHODS)}",
        f"--data.train={files / 'train.jsonl'}",
        f"--data.test={files / 'test.jsonl'}",
        f"--data.contexts={files / 'contexts.json'}",
        f"--backbone.name={backbone_dir}",
        "--backbone.dtype=float32",
        f"--store.dir={tmp_path / 'store'}",
        f"--run.dir={tmp_path / 'run'}",
        "--train.num_heads=3",
        *flags(TINY),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert run.evaluate().content["methods"] == report["methods"]
    opened = mrm.Run(tmp_path / "run")
    assert opened.methods == run.methods == METHODS
    assert str(opened.evaluate()) == str(run.evaluate())


def test_nothing_is_printed_and_nothing_done_twice(
    run: mrm.Run, table: mrm.Table, capfd: pytest.CaptureFixture[str]
) -> None:
    run.evaluate()
    before = run.record["stages"]
    again = mrm.train(table, METHODS, num_heads=3, dir=run.dir, settings=TINY)
    again.evaluate()
    assert again.record["stages"] == before
    assert capfd.readouterr() == ("", "")


def test_another_setting_is_another_run(run: mrm.Run, table: mrm.Table, tmp_path: Path) -> None:
    other = mrm.train(
        table, ["single_bt"], dir=tmp_path / "run", settings=TINY | {"train.epochs": 1}
    )
    first = other.record["stages"]["train"]
    mrm.train(table, ["single_bt"], dir=tmp_path / "run", settings=TINY | {"train.epochs": 2})
    assert other.record["stages"]["train"]["inputs"] != first["inputs"]


def test_a_report_has_rows_text_and_every_number(
    run: mrm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = run.evaluate()
    assert "\x1b" not in str(report) and "\n\n\n" not in str(report)
    rows = {row["method"]: row for row in report.rows()}
    assert rows["micro"]["accuracy"] == report["micro"]["macro"]["accuracy"]
    assert rows["micro"]["low"] <= rows["micro"]["accuracy"] <= rows["micro"]["high"]
    assert {"accuracy/short", "accuracy/long"} <= rows["micro"].keys()
    lines = str(report).splitlines()
    headings = ["method", "macro", "95%", "interval", "seeds", "draws", "NLL", "given"]
    assert lines[0].split() == headings
    assert any(line.startswith("micro ") for line in lines)
    with pytest.raises(mrm.UserError, match="no method 'mirco' in this report"):
        report["mirco"]


def test_figures_are_returned_and_not_shown(run: mrm.Run) -> None:
    from matplotlib import pyplot

    figures = run.plot()
    assert {"accuracy", "objective", "validation_nll"} <= figures.keys()
    names = [text.get_text() for text in figures["accuracy"].axes[0].get_yticklabels()]
    assert figures["accuracy"]._repr_png_().startswith(b"\x89PNG")  # as a notebook asks for it
    assert names == METHODS[::-1] and pyplot.get_fignums() == []


def test_a_page_is_written(run: mrm.Run) -> None:
    page = run.report()
    assert page == run.dir / "report.html" and "micro_stage1" in page.read_text("utf-8")


def test_a_model_scores_raw_text_as_the_whole_run_does(run: mrm.Run) -> None:
    model = run.model("micro", device="cpu")
    answers = ["yes 1", "yes it is so and here is the whole story 1"]
    prompt = "question test 1 about the garden"
    rewards = model.score(prompt, answers, context="keep it terse")
    whole = mrm.load(run.dir, device="cpu")
    expected = whole.score([prompt] * 2, answers, ["keep it terse"] * 2, method="micro")
    np.testing.assert_allclose(rewards, [score.reward for score in expected], rtol=1e-6)
    assert model.best(prompt, answers, "keep it terse") == answers[int(np.argmax(rewards))]
    assert model.weights(prompt, "keep it terse").sum() == pytest.approx(1, abs=1e-5)
    assert 0 < model.probability(prompt, *answers, "keep it terse") < 1
    with pytest.raises(mrm.UserError, match="method: expected one of"):
        run.model("hyre", device="cpu")


def test_a_directory_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(mrm.UserError, match="no run here"):
        mrm.Run(tmp_path)
