"""``micro-rm report --report.prompts``: router weights, equal to those of ``micro-rm score``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import micro_rm
from micro_rm.configs.report import ExamplePrompt
from micro_rm.pipeline import main
from micro_rm.serve import example_prompts

MOON, WISH = "How far is the moon?", "be brief"
ASKED = [{"prompt": MOON, "context": WISH}, {"prompt": "And the sun?"}]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that may be modified."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def report(run: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["report", f"--run.dir={run}", "--embed.device=cpu", "--json", *words])
    return code, json.loads((run / "report.json").read_text("utf-8"))["prompts"]


def test_weights_are_those_of_score_without_and_with_the_context(tiny_run: Path) -> None:
    model = micro_rm.load(tiny_run, device="cpu")
    first, second = example_prompts.router_weights(model, [ExamplePrompt(**one) for one in ASKED])
    assert list(first) == ["micro_stage1", "micro", "micro_kernel"]  # those with a router
    for name, weights in first.items():
        for side, context in (("without", None), ("with", WISH)):
            (score,) = model.score([MOON], ["Far."], [context], method=name)
            assert weights[side] == pytest.approx(score.weights, abs=1e-5)
        assert weights["without"] != pytest.approx(weights["with"], abs=1e-5)
        assert second[name]["with"] is None
        assert second[name]["without"] != pytest.approx(weights["without"], abs=1e-5)


@pytest.mark.long
def test_a_report_keeps_its_prompts_until_others_are_given(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report(run)[1] is None
    code, kept = report(run, "--report.prompts", json.dumps(ASKED))
    assert code == 0 and [row["prompt"]["text"] for row in kept["rows"]] == [MOON, "And the sun?"]
    shown = (run / "report.html").read_text("utf-8")
    assert MOON in shown and WISH in shown and "the context moves" in shown
    assert main(["verify", str(run)]) == 0
    # A repeated report reuses the stored weights and needs no backbone.
    monkeypatch.setattr(example_prompts, "route_prompts", None)
    assert report(run) == (0, kept)
    assert report(run, "--report.prompts", json.dumps(ASKED)) == (0, kept)
    assert (run / "report.html").read_text("utf-8") == shown


@pytest.mark.long
def test_a_missing_backbone_is_an_error_only_if_prompts_are_given(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["config"]["backbone"]["name"] = str(run / "gone")
    (run / "record.json").write_text(json.dumps(record), "utf-8")
    code, kept = report(run, "--report.prompts", json.dumps(ASKED))
    said = capsys.readouterr().err
    assert code == 2 and kept is None
    assert "report.prompts" in said and str(run / "gone") in said and "leave report.prompts" in said
    assert report(run) == (0, None)
