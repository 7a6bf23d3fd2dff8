"""Commands that need no text: runs and studies of simulated vectors, and the theory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from micro_rm.pipeline import main

SMALL = [
    "--data.source=simulator",
    "--data.name=sim",
    "--data.simulator.pairs=800",
    "--data.simulator.test_pairs=300",
    "--data.simulator.width=12",
    "--views.adapt_head=plain",
    "--views.adapt_router=context",
    "--train.num_heads=3",
    "--train.epochs=10",
    "--train.seeds=2",
    "--train.router=linear",
    "--train.validation_fraction=0.2",
    "--adapt.budget=10",
    "--adapt.pool=20",
    "--adapt.draws=2",
]


def test_prompts_are_refused_before_anything_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--report.prompts", '[{"prompt": "Why?"}]', f"--run.dir={tmp_path / 'run'}"]
    assert main(["run", *SMALL, *words]) == 2
    assert "report.prompts: expected none with the simulator" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_studies_come_with_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        *SMALL,
        "--methods=single_bt,micro",
        '--study.names=["budget","agreement"]',
        '--study.methods=["micro"]',
        "--study.seeds=2",
        "--study.budgets=[0,10]",
        f"--run.dir={tmp_path}",
    ]
    assert main(["study", *flags]) == 0
    printed = capsys.readouterr().out
    assert "How many labelled rows does it take?" in printed
    page = (tmp_path / "report.html").read_text("utf-8")
    for title in ("Labelled rows", "Agreement"):
        assert f"<h2>{title}</h2>" in page
    studied = page[page.index('<div id="studies">') : page.index('<h2 id="training">')]
    assert studied.count("<svg") == 3  # accuracy and NLL by budget, agreement of the heads
    studies = json.loads((tmp_path / "report.json").read_text("utf-8"))["studies"]
    assert list(studies) == ["budget", "agreement"]
    # Another K is another run: its report shows no study of the old one.
    other = [flag for flag in flags if "--study" not in flag] + ["--train.num_heads=2"]
    assert main(["run", *other]) == 0
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["studies"] == {}


@pytest.mark.long
def test_training_that_was_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Killed when it is about to save what it learnt."""
    flags = [*SMALL, "--methods=single_bt", "--train.epochs=2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    script = f"""
import os, signal
from micro_rm.heads import stages
from micro_rm.pipeline import main
stages.save_seeds = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main({["train", *flags, f"--run.dir={killed}"]!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    for place in (whole, killed):
        assert main(["train", *flags, f"--run.dir={place}"]) == 0
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.long
def test_theory_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--theory.mixtures=50", "--theory.spreads=[1.0]", "--theory.pairs=1000"]
    assert main(["theory", *flags, f"--theory.dir={tmp_path}"]) == 0
    assert "violations         0 of 5 inequalities on 50 random mixtures" in capsys.readouterr().out
    assert json.loads((tmp_path / "theory.json").read_text("utf-8"))
    assert (tmp_path / "theory.html").read_text("utf-8").startswith("<!doctype html>")


def test_there_is_nothing_to_embed_in_a_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", *SMALL, f"--store.dir={tmp_path}"]) == 2
    assert "there is no text to check or embed" in capsys.readouterr().err


def test_a_recommended_preset_lies_on_top_of_a_data_preset(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    """Two files, the second wins where both speak."""
    presets = [f"--config={repository / 'configs' / f'{n}.yaml'}" for n in ("demo", "recommended")]
    with pytest.raises(SystemExit):
        main(["run", *presets, "--print_config"])
    shown = capsys.readouterr().out
    assert "source: synthetic" in shown and "num_heads: 20" in shown
