"""The studies on a small simulated population: what they measure, write and say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, DataConfig, RunConfig, ViewsConfig
from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.configs.study import STUDIES, StudyConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.display.studies import study_tables
from micro_rm.heads.adaptation import BudgetError
from micro_rm.heads.run_data import RunData
from micro_rm.heads.stages import open_run_data
from micro_rm.heads.studies import sweeps
from micro_rm.heads.studies.measure import StudyError
from micro_rm.heads.studies.points import best_point, curves, point
from micro_rm.heads.studies.registry import REGISTRY
from micro_rm.heads.studies.run import read_studies, run_studies

CONFIG = Config(
    data=DataConfig(
        name="small",
        source="simulator",
        simulator=SimulatorConfig(pairs=1200, test_pairs=400, width=12, directions=2),
    ),
    views=ViewsConfig(adapt_head="plain", adapt_router="context"),
    train=TrainConfig(
        num_heads=3,
        learning_rate=0.02,
        epochs=25,
        entropy_weight=0.05,
        router="linear",
        select="last",
        validation_fraction=0.2,
    ),
    adapt=AdaptConfig(budget=20, pool=50, draws=2, epochs=20, learning_rate=0.01),
    study=StudyConfig(
        methods=["micro", "micro_hyre"],
        seeds=2,
        num_heads=[1, 3],
        budgets=[0, 20, 999],
        taus=[1e-3, 1e4],
        correlations=[0.2, 1.01],
    ),
)


@pytest.fixture(scope="module")
def run_data() -> RunData:
    return open_run_data(CONFIG)


@pytest.fixture(scope="module")
def done(
    run_data: RunData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    run = tmp_path_factory.mktemp("studies")
    return run_studies(run_data, list(STUDIES), run, "these", lambda _: None), run


def series(done: tuple[dict[str, Any], Path], study: str, metric: str) -> dict[str, Any]:
    return done[0][study]["metrics"][metric]


def test_every_name_of_the_configuration_is_a_study() -> None:
    assert tuple(REGISTRY) == STUDIES


@pytest.mark.long
def test_one_head_cannot_serve_two_tastes_and_three_can(done: Any) -> None:
    points = series(done, "num_heads", "macro accuracy")["micro"]
    assert [item["x"] for item in points] == [1, 3]
    assert points[1]["mean"] > points[0]["mean"] + 0.05
    nll = series(done, "num_heads", "NLL in nats")["micro_stage1"]
    assert nll[1]["mean"] < nll[0]["mean"] - 0.02


@pytest.mark.long
def test_without_labelled_rows_stage_2_is_stage_1(done: Any) -> None:
    """Budgets beyond the pool are left out."""
    by_series = series(done, "budget", "macro accuracy")
    assert [item["x"] for item in by_series["micro"]] == [0, 20]
    assert by_series["micro"][0]["values"] == by_series["micro_stage1"][0]["values"]
    assert by_series["micro"][1]["mean"] > by_series["micro"][0]["mean"]


@pytest.mark.long
def test_reweighting_has_as_many_rows_as_routing(done: Any) -> None:
    points = series(done, "budget", "macro accuracy")["micro_hyre"]
    assert points[0]["mean"] != points[1]["mean"]


@pytest.mark.long
def test_a_hot_target_changes_nothing_and_a_cold_one_helps(done: Any) -> None:
    """At a high temperature the target is the prior, so the router stays where it was."""
    by_series = series(done, "tau", "macro accuracy")
    cold, hot = by_series["micro"]
    assert cold["mean"] > hot["mean"]
    assert hot["mean"] == pytest.approx(by_series["micro_stage1"][0]["mean"], abs=0.05)


@pytest.mark.long
def test_merging_everything_alike_leaves_fewer_heads_and_a_high_threshold_all(done: Any) -> None:
    left = series(done, "pruning", "heads")["heads left"]
    assert [item["x"] for item in left] == [0.2, 1.01]
    assert left[0]["mean"] < left[1]["mean"] == 3
    accuracy = series(done, "pruning", "macro accuracy")
    merged, again = accuracy["micro, heads merged"], accuracy["micro, merged and adapted again"]
    assert merged[1]["values"] == pytest.approx(again[1]["values"])
    micro = series(done, "budget", "macro accuracy")["micro"][1]
    assert merged[1]["values"] == pytest.approx(micro["values"])


@pytest.mark.long
def test_two_seeds_agree_on_the_planted_heads(done: Any) -> None:
    ranked = series(done, "agreement", "correlation of margins")["matched heads"]
    means = [item["mean"] for item in ranked]
    assert len(means) == 3 and means == sorted(means, reverse=True)
    assert means[1] > 0.9


@pytest.mark.long
def test_what_is_written_is_what_was_found(done: Any, tmp_path: Path) -> None:
    studies, run = done
    assert read_studies(run, "these") == json.loads(json.dumps(studies))
    assert read_studies(run, "others") == {}  # of another run: stale
    assert read_studies(tmp_path, "these") == {}


@pytest.mark.long
def test_every_study_is_shown_with_its_question_and_its_reading(done: Any) -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    for study in done[0].values():
        with console.capture() as shown:
            for part in study_tables(study):
                console.print(part)
        text = " ".join(shown.get().split())
        assert study["question"] in text and study["reading"][:40] in text
        for metric in study["metrics"].values():
            assert all(name.split(",")[0].split()[0] in text for name in metric)


def test_a_method_that_the_data_cannot_serve_is_named(run_data: RunData, tmp_path: Path) -> None:
    config = replace(CONFIG, study=replace(CONFIG.study, methods=["armo_style"]))
    with pytest.raises(
        StudyError, match=r"study\.methods: armo_style is impossible here: .*rating"
    ):
        run_studies(RunData(config, run_data.features), ["tau"], tmp_path, "these", lambda _: None)


def test_one_seed_cannot_agree_with_itself(run_data: RunData, tmp_path: Path) -> None:
    config = replace(CONFIG, study=replace(CONFIG.study, seeds=1), run=RunConfig(str(tmp_path)))
    with pytest.raises(StudyError, match="compares seeds, expected 2 or more, found 1"):
        run_studies(
            RunData(config, run_data.features), ["agreement"], tmp_path, "these", lambda _: None
        )


def test_points_have_t_intervals_over_seeds_and_none_for_a_single_seed() -> None:
    item = point(3.0, [0.5, 0.6, 0.7], 0.95)
    assert item["mean"] == pytest.approx(0.6) and item["std"] == pytest.approx(0.1)
    # t with two degrees of freedom at 97.5 %: 4.3027.
    assert item["high"] - item["mean"] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert point(3.0, [0.5], 0.95)["low"] is None
    by_series = curves({1.0: {"a": [1.0], "b": [2.0]}, 2.0: {"a": [3.0]}}, 0.95)
    assert [p["x"] for p in by_series["a"]] == [1.0, 2.0] and len(by_series["b"]) == 1
    assert best_point(by_series["a"])["x"] == 2.0


def test_budgets_beyond_the_pool_leave_nothing_to_study(run_data: RunData, tmp_path: Path) -> None:
    config = replace(CONFIG, study=replace(CONFIG.study, budgets=[999]))
    with pytest.raises(StudyError, match=r"study\.budgets: .*adapt\.pool \(50\), found \[999\]"):
        run_studies(RunData(config, run_data.features), ["budget"], tmp_path, "", lambda _: None)


def test_budgets_that_some_attribute_has_no_rows_for_are_left_out_and_named(
    run_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool is not what is left of it: rows of validation prompts cannot be drawn."""

    def few_rows(_data: RunData, members: list[Any], _methods: Any, _test: Any) -> Any:
        for member in members:
            numbers = {name: {"accuracy": 0.7, "nll": 0.6} for name in ("micro_stage1", "micro")}
            many = member.config.adapt.budget > 30 and member.config.run.seed == 1
            yield [member], [BudgetError("too few rows") if many else numbers]

    monkeypatch.setattr(sweeps, "run_members", few_rows)
    config = replace(CONFIG, study=replace(CONFIG.study, budgets=[0, 20, 40]))
    result = sweeps.budget(RunData(config, run_data.features), run_data.test_set, dict)
    assert [item["x"] for item in result["metrics"]["macro accuracy"]["micro"]] == [0, 20]
    assert "Left out, because some attribute has fewer: 40." in result["reading"]
    nothing = replace(CONFIG, study=replace(CONFIG.study, budgets=[40]))
    with pytest.raises(BudgetError, match="too few rows"):
        sweeps.budget(RunData(nothing, run_data.features), run_data.test_set, dict)
