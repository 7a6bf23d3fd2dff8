"""A run records the checksums of its files, by which later changes are detected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from micro_rm.configs.schema import Config
from micro_rm.run_dir.files import verify_run
from micro_rm.run_dir.record import RunRecord, recording_files


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two stages, a page that was written later, and a note of its owner."""
    record = RunRecord(tmp_path, Config())
    with record.stage("train", "a"):
        (tmp_path / "model.safetensors").write_bytes(b"arrays")
        (tmp_path / "model.json").write_text("{}")
    with record.stage("evaluate", "b"):
        (tmp_path / "report.json").write_text("{}")
    with recording_files(tmp_path):
        (tmp_path / "report.html").write_text("<p>")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_a_finished_run_has_no_problems(run: Path) -> None:
    assert verify_run(run) == (4, [], [])


@pytest.mark.parametrize("name", ["model.safetensors", "report.html"])
def test_a_changed_or_missing_file_is_named(name: str, run: Path) -> None:
    path = run / name
    honest = path.read_bytes()
    path.write_bytes(honest[:-1])
    assert name in RunRecord(run, Config()).problem(name)
    for content in (honest[:-1], honest + b" ", bytes([honest[0] ^ 1]) + honest[1:], b""):
        path.write_bytes(content)
        _, (problem,), _ = verify_run(run)
        assert f"{name}: bytes differ" in problem and "run the same command again" in problem
    path.unlink()
    _, (problem,), _ = verify_run(run)
    assert f"{name}: missing" in problem


def test_a_later_stage_keeps_the_checksums_of_files_it_did_not_write(run: Path) -> None:
    """So damage between two stages stays detectable."""
    (run / "model.json").write_text("[]")
    with RunRecord(run, Config()).stage("evaluate", "c"):
        (run / "report.json").write_text("{ }")
    _, (problem,), _ = verify_run(run)
    assert "model.json" in problem


@pytest.mark.long
def test_every_byte_of_the_record_counts_but_white_space(run: Path) -> None:
    path = run / "record.json"
    honest = path.read_bytes()
    for offset in range(0, len(honest), 41):
        path.write_bytes(honest[:offset] + bytes([honest[offset] ^ 1]) + honest[offset + 1 :])
        problems = verify_run(run)[1]
        assert problems or honest[offset : offset + 1].isspace(), honest[offset - 20 : offset + 20]
        if problems:
            assert not RunRecord(run, Config()).done("train", "a") or "0.2" in problems[0]


def test_a_stage_that_was_interrupted_is_noted(run: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunRecord(run, Config()).stage("evaluate", "c"):
        (run / "predictions.parquet").write_bytes(b"half")
        raise KeyboardInterrupt
    _, problems, notes = verify_run(run)
    assert "stage evaluate was interrupted" in notes[0]
    assert "predictions.parquet: not in record.json" in problems[0]


def test_a_record_of_an_older_version_is_read_but_has_no_checksums(run: Path) -> None:
    path = run / "record.json"
    raw = json.loads(path.read_text())
    del raw["files"], raw["checksum"]
    path.write_text(json.dumps(raw))
    assert "before 0.2" in verify_run(run)[1][0]
    assert RunRecord(run, Config()).done("train", "a")
