"""The run record: a stage is done for exact inputs only, and a damaged record counts as empty."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from micro_rm.common.fingerprint import code_fingerprint, fingerprint
from micro_rm.configs.schema import Config, RunConfig
from micro_rm.run_dir.record import RunRecord


def test_fingerprints_depend_on_every_value_and_on_nothing_else() -> None:
    config = Config()
    assert fingerprint(config, 1) == fingerprint(Config(), 1)
    assert fingerprint(config, 1) != fingerprint(config, 2)
    assert fingerprint(config) != fingerprint(replace(config, run=RunConfig(seed=1)))
    with pytest.raises(TypeError):
        fingerprint(object())


def test_a_stage_is_done_for_its_inputs_only(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, Config())
    with record.stage("train", "a") as notes:
        notes["rows"] = 3
    again = RunRecord(tmp_path, Config())
    assert again.done("train", "a") and not again.done("train", "b")
    assert again.content["stages"]["train"]["rows"] == 3
    again.invalidate(["train"])
    assert not again.done("train", "a")


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, Config())
    with record.stage("train", "a"):
        pass
    with pytest.raises(ZeroDivisionError), record.stage("train", "a"):
        raise ZeroDivisionError
    assert not record.done("train", "a")


def test_a_damaged_record_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{half", "utf-8")
    record = RunRecord(tmp_path, Config())
    assert not record.done("train", "a")
    record.write()
    content = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert content["config"]["train"]["num_heads"] == 10
    assert content["versions"]["jax"] != "not installed"
    assert {"seed", "commit", "machine", "stages"} <= content.keys()


def test_code_counts_as_an_input() -> None:
    assert code_fingerprint("heads") != code_fingerprint("embed")
    assert code_fingerprint("heads") == code_fingerprint("heads")
