"""A token in settings, in the environment and in what the hub says is in no file and no message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from micro_rm.common.redact import MARK
from micro_rm.pipeline import main

TOKEN = "hf_" + "Ab1" * 9
SECRET = "not-known-by-its-form"
SIMULATED = ["--data.source=simulator", "--methods=length_only"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("STORAGE_PASSWORD", SECRET)


def leaked(text: str) -> bool:
    return TOKEN in text or SECRET in text


def test_no_file_of_a_run_and_nothing_printed_holds_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--share.repo=me/{TOKEN}", f"--backbone.name=https://me:{SECRET}@host/model"]
    run = f"--run.dir={tmp_path / 'run'}"
    small = ["--data.simulator.pairs=200", "--data.simulator.test_pairs=60", "--train.epochs=1"]
    assert main(["run", run, f"--data.name={SECRET}", *SIMULATED, *small, *settings]) == 0
    printed = capsys.readouterr()
    assert not leaked(printed.out + printed.err)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        if path.suffix in (".json", ".jsonl", ".html"):
            assert not leaked(path.read_text("utf-8")), path.name
        else:
            assert TOKEN.encode() not in path.read_bytes(), path.name
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["config"]["share"]["repo"] == f"me/{MARK}"


def test_what_the_hub_says_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(f"401 for https://u:{SECRET}@hub/x?token={TOKEN} (Bearer {TOKEN})\x1b[2J")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    assert main(["pull", str(tmp_path / "store"), "--share.repo=owner/name"]) == 2
    message = capsys.readouterr().err
    assert "401 for" in message and MARK in message
    assert not leaked(message) and "\x1b" not in message


@pytest.mark.parametrize(
    "argv",
    [
        ["run", f"--nonsense={TOKEN}"],
        ["check", f"{SECRET}.jsonl"],
    ],
)
def test_errors_do_not_repeat_a_secret(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert MARK in message and not leaked(message)
