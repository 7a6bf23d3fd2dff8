from __future__ import annotations

from pathlib import Path

import pytest

import micro_rm as mrm
from micro_rm.tests.api.conftest import TINY


def test_a_sweep_gives_a_row_per_member_and_method(table: mrm.Table, tmp_path: Path) -> None:
    grid = {"train.num_heads": [2, 3], "run.seed": range(2)}
    sweep = mrm.sweep(table, grid, dir=tmp_path / "sweep", settings=TINY)
    rows = [row for row in sweep.rows() if row["method"] == "micro"]
    assert {(row["train.num_heads"], row["run.seed"]) for row in rows} == {
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 1),
    }
    single = mrm.train(
        table, ["micro"], num_heads=3, seed=1, dir=tmp_path / "run", settings=TINY
    ).evaluate()
    (same,) = (row for row in rows if (row["train.num_heads"], row["run.seed"]) == (3, 1))
    # A member has one training seed, the first of a run.
    assert same["accuracy"] == pytest.approx(single["micro"]["seeds"]["macro"][0], abs=1e-9)
    assert sweep.best("micro")["settings"]["train.num_heads"] in (2, 3)
    assert "micro: best by validation, of 2 settings" in str(sweep)
    assert any(name.startswith("train.num_heads") for name in sweep.plot())
    assert mrm.Sweep(sweep.dir).rows() == sweep.rows()
    again = mrm.sweep(table, grid, dir=tmp_path / "sweep", settings=TINY)
    assert again.rows() == sweep.rows()


def test_a_key_that_cannot_be_swept_is_refused(table: mrm.Table, tmp_path: Path) -> None:
    with pytest.raises(mrm.UserError, match="sweep: expected keys of train"):
        mrm.sweep(table, {"backbone.name": ["a", "b"]}, dir=tmp_path)
