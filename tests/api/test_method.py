from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import micro_rm as mrm
from micro_rm.heads import methods
from micro_rm.heads.methods.interface import Examples, Problem, Trained
from micro_rm.run_dir.freshness import stage_inputs
from micro_rm.tests.api.conftest import TINY


@pytest.fixture(autouse=True)
def forget_own_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_OUTSIDE", {})


def mean_difference(problem: Problem, done: Mapping[str, Trained]) -> np.ndarray:
    """Reward along the mean difference."""
    return np.asarray(problem.train.rows.delta_NxD).mean(axis=0)


def test_a_reward_direction_takes_part_in_the_table(table: mrm.Table, tmp_path: Path) -> None:
    assert mrm.method(mean_difference) is mean_difference
    run = mrm.train(table, ["single_bt", "mean_difference"], dir=tmp_path / "run", settings=TINY)
    report = run.evaluate()
    assert run.methods == ["single_bt", "mean_difference"]
    assert report["mean_difference"]["summary"] == "Reward along the mean difference."
    assert "mean_difference" in str(report) and "mean_difference" in run.report().read_text()
    rewards = run.model("mean_difference", device="cpu").score("question", ["yes 1", "no"])
    assert rewards.shape == (2,) and np.isfinite(rewards).all()


def test_a_router_of_ones_own_builds_on_the_heads_of_stage_1(
    table: mrm.Table, tmp_path: Path
) -> None:
    @mrm.method(after="micro_stage1", needs="contexts")
    def same_router(problem: Problem, done: Mapping[str, Trained]) -> Trained:
        assert problem.budget is not None and set(done) == {"micro_stage1"}
        return replace(done["micro_stage1"], curves={})

    run = mrm.train(table, ["same_router"], num_heads=3, dir=tmp_path / "run", settings=TINY)
    report = run.evaluate()
    assert run.record["stages"]["adapt"]["adapted"] == ["same_router"]
    mine, stage1 = report["same_router"], report["micro_stage1"]
    assert mine["macro"]["accuracy"] == stage1["macro"]["accuracy"]


def test_a_prediction_of_ones_own(table: mrm.Table, tmp_path: Path) -> None:
    def shorter(trained: Trained, examples: Examples) -> np.ndarray:
        return -examples.longer_N * float(trained.params["scale"])

    @mrm.method(name="brevity", predict=shorter)
    def fit(problem: Problem, done: Mapping[str, Trained]) -> Trained:
        return Trained({"scale": np.array(2.0)})

    report = mrm.train(table, ["brevity"], dir=tmp_path / "run", settings=TINY).evaluate()
    cells = report["brevity"]["attributes"]
    assert cells["short"]["accuracy"] == 1 and cells["long"]["accuracy"] == 0


def test_a_method_of_ones_own_is_swept(table: mrm.Table, tmp_path: Path) -> None:
    mrm.method(mean_difference)
    sweep = mrm.sweep(
        table,
        {"run.seed": range(2)},
        methods=["single_bt", "mean_difference"],
        dir=tmp_path / "sweep",
        settings=TINY,
    )
    rows = [row for row in sweep.rows() if row["method"] == "mean_difference"]
    assert [row["run.seed"] for row in rows] == [0, 1]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_a_changed_method_is_fitted_again(run: mrm.Run) -> None:
    config = replace(run.config, methods=["own"])

    def inputs(fit: Callable[..., Any]) -> str:
        mrm.method(name="own")(fit)
        return stage_inputs(config, "table")["train"]

    def one(problem: Problem, done: Mapping[str, Trained]) -> np.ndarray:
        return np.ones(problem.width)

    def other(problem: Problem, done: Mapping[str, Trained]) -> np.ndarray:
        return np.zeros(problem.width)

    assert inputs(one) == inputs(one) != inputs(other)


WRONG_RESULTS = [
    (np.ones(3), r"expected a Trained or a reward direction \(32,\), found \(3,\)"),
    (np.full(32, np.nan), "holds NaN or infinity"),
    (Trained({"other": np.ones(2)}), "expected params with head, or with heads and router"),
]


@pytest.mark.parametrize(("result", "message"), WRONG_RESULTS)
def test_a_result_that_is_no_model_is_refused(
    table: mrm.Table, tmp_path: Path, result: Any, message: str
) -> None:
    mrm.method(name="own")(lambda problem, done: result)
    with pytest.raises(mrm.UserError, match=message):
        mrm.train(table, ["own"], dir=tmp_path / "run", settings=TINY).evaluate()


def test_names_that_are_taken_or_unknown_are_refused() -> None:
    with pytest.raises(mrm.UserError, match="identifier that no method of micro_rm has"):
        mrm.method(name="micro")(mean_difference)
    with pytest.raises(mrm.UserError, match="comes after nothing, which does not exist"):
        mrm.method(name="own", after="nothing")(mean_difference)
    with pytest.raises(mrm.UserError, match="not registered; if it was defined outside"):
        methods.load_method("of_yesterday")
