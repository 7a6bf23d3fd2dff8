"""Maintenance commands for stores and runs, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from micro_rm.cache.pairs import read_pairs
from micro_rm.pipeline import main
from micro_rm.tests.serve.conftest import flags


@pytest.fixture
def workspace(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with its store and data."""
    shutil.copytree(tiny_run.parent, tmp_path / "mine")
    return tmp_path / "mine"


def flip(path: Path, offset: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_verify_finds_a_changed_byte_of_a_run_and_run_makes_it_anew(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(workspace / "run")]) == 0
    assert "8 files of a run: 0 problems" in capsys.readouterr().out
    flip(workspace / "run" / "predictions.parquet")
    assert main(["verify", str(workspace / "run")]) == 1
    assert "predictions.parquet: bytes differ" in capsys.readouterr().out


def test_verify_finds_and_rebuilds_a_store(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = workspace / "store"
    flip(store / "pairs" / "rows.h5")
    assert main(["verify", str(store), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "rows.h5: bytes differ from the manifest" in problem
    (store / "manifest.json").unlink()
    assert main(["verify", str(store)]) == 2
    assert "--rebuild" in capsys.readouterr().err


def test_gc_and_delete_ask_and_delete_leaves_models_outdated(
    tiny_run: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, planned = workspace / "store", ["run", *flags(tiny_run.parent, workspace), "--dry_run"]
    pair = read_pairs(store, "rows").text["pair_id"][3]
    before = (store / "manifest.json").read_bytes()
    assert main(planned) == 0
    assert "embed: done; to do: none" in capsys.readouterr().out
    assert main(["gc", str(store)]) == 0
    assert main(["delete", str(store), "--pair", pair]) == 0
    assert "nothing was changed; --yes deletes them" in capsys.readouterr().out
    assert (store / "manifest.json").read_bytes() == before
    assert main(["delete", str(store), "--pair", pair, "--yes"]) == 0
    assert "0 found" in capsys.readouterr().out
    assert len(read_pairs(store, "rows")) == 47
    assert main(planned) == 0
    out = capsys.readouterr().out
    assert "embed: done" in out and "to do: train, adapt, evaluate" in out
    assert main(["delete", str(store), "--user", "nobody"]) == 2


def test_copy_needs_a_destination_and_reads_back(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["copy", str(workspace / "store")]) == 2
    assert "--to DIRECTORY" in capsys.readouterr().err
    assert main(["copy", str(workspace / "store"), "--to", str(workspace / "copy")]) == 0
    assert "every byte read back" in capsys.readouterr().out


def test_extend_adds_to_a_store_that_exists_and_to_no_other(
    tiny_run: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (workspace / "rows.jsonl").read_text().splitlines()]
    more = [row | {"chosen": row["chosen"] + " Or so."} for row in rows]
    (workspace / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    words = flags(tiny_run.parent, workspace)
    words += [f"--data.train={workspace / 'more.jsonl'}", "--data.name=more"]
    assert main(["extend", str(workspace / "store"), *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["vectors"] > result["vectors_before"] > 0
    assert main(["extend", str(workspace / "nowhere"), *words]) == 2
    assert "no store here" in capsys.readouterr().err
