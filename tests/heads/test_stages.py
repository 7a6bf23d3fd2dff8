"""Training, adaptation and evaluation over a run directory, on the tiny store."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file

from micro_rm.cache.schema import StoreError, file_checksum
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, RunConfig
from micro_rm.display.report import write_report
from micro_rm.heads import stages
from micro_rm.heads.checkpoint import load_models
from micro_rm.heads.evaluation.protocol import EvaluationError
from micro_rm.heads.methods import load_method
from micro_rm.tests.heads.tiny_run import ORACLE, VALIDATED, predictions, run_config, store_beside


def checksums(directory: Path) -> dict[str, str]:
    return {str(path): file_checksum(path) for path in directory.rglob("*") if path.is_file()}


def copy_models(done: Done, directory: Path) -> RunConfig:
    """A run directory with the trained models of another one."""
    for name in ("model.safetensors", "model.json"):
        (directory / name).write_bytes((done.run / name).read_bytes())
    shutil.copytree(done.run / "seeds", directory / "seeds")
    return RunConfig(str(directory), seed=5)


def no_prompts(prompts: Any) -> Any:
    raise AssertionError(f"no prompt was asked for, but {prompts}")


@dataclass(frozen=True)
class Done:
    """One run through all stages, and the bytes of the store before it."""

    config: Config
    run: Path
    store_before: dict[str, str]
    adapted: list[str]
    content: dict[str, Any]


@pytest.fixture(scope="module")
def done(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Done:
    run = tmp_path_factory.mktemp("run")
    config = run_config(tiny, run)
    before = checksums(tiny.store)
    stages.train(config)
    adapted, _ = stages.adapt(config)
    stages.evaluate(config)
    (run / "record.json").write_text(json.dumps({"seed": 5}), "utf-8")
    return Done(config, run, before, list(adapted), write_report(config, no_prompts))


def test_a_wish_in_words_decides_where_one_reward_for_all_cannot(done: Done) -> None:
    """Opposed tastes: one reward is right for one of them only, routed heads for both."""
    methods = done.content["methods"]
    assert list(methods) == ["single_bt", "micro_stage1", "micro", VALIDATED, ORACLE]
    assert methods["single_bt"]["macro"]["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert methods["micro"]["macro"]["accuracy"] > 0.95
    assert methods["micro"]["draws"]["count"] == 2


def test_every_method_has_the_heads_and_the_router_that_its_name_promises(done: Done) -> None:
    models, _ = load_models(done.run)
    shapes = {name: (model.spec.num_heads, model.spec.router) for name, model in models.items()}
    assert shapes == {"single_bt": (1, "static"), "micro_stage1": (4, "mlp"), "micro": (4, "mlp")}
    assert models["micro_stage1"].params["router"]["hidden"]["kernel"].shape == (1, 8, 16)
    assert models["micro"].params["router"]["hidden"]["kernel"].shape == (2, 8, 16)


def test_the_report_on_disk_is_the_one_returned_without_nan_and_with_its_record(
    done: Done,
) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (done.run / "report.json").read_text("utf-8")
    assert json.loads(text, parse_constant=refuse) == done.content
    assert done.content["record"] == {"seed": 5}
    assert done.content["test"] == {"rows": 40, "prompts": 20}
    assert {"dataset", "methods", "heads", "verdict", "warnings"} <= done.content.keys()
    assert done.content["budget"] == {
        "group": "attribute",
        "source": "train",
        "rows_per_group": 16,
        "groups": 2,
        "draws": 2,
        "apart": ["prompt"],
    }
    assert done.content["skipped"] == {}
    assert "<!doctype html>" in (done.run / "report.html").read_text("utf-8")


def test_every_row_of_the_table_says_what_it_is_and_what_it_is_told(done: Done) -> None:
    methods = done.content["methods"]
    assert {name: entry["given"] for name, entry in methods.items()} == {
        "single_bt": "prompt",
        "micro_stage1": "prompt",
        "micro": "context",
        VALIDATED: "attribute",
        ORACLE: "attribute",
    }
    for name in ("single_bt", "micro_stage1", "micro"):
        assert methods[name]["summary"] == load_method(name).summary
    page = (done.run / "report.html").read_text("utf-8")
    assert methods[ORACLE]["summary"] in page


def test_stage_2_leaves_every_head_bit_as_stage_1_made_it(done: Done) -> None:
    arrays = load_file(done.run / "model.safetensors")
    before, after = (arrays[f"{name}/params/heads/kernel"] for name in ("micro_stage1", "micro"))
    assert before.tobytes() == after.tobytes()
    assert done.adapted == ["micro"]


def test_adapting_again_starts_from_stage_1_and_gives_the_same_bits(done: Done) -> None:
    before = file_checksum(done.run / "model.safetensors")
    stages.adapt(done.config)
    assert file_checksum(done.run / "model.safetensors") == before


def test_metrics_have_a_line_per_method_and_epoch(done: Done) -> None:
    lines = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    epochs = [(line["method"], line["epoch"]) for line in lines]
    expected = [(name, e) for name in ("single_bt", "micro_stage1") for e in range(1, 5)]
    assert epochs == expected + [("micro", epoch) for epoch in range(1, 41)]
    assert {"objective", "validation_nll"} <= lines[0].keys()
    assert lines[-1]["cross_entropy"] < lines[8]["cross_entropy"]


def test_predictions_are_those_of_the_test_rows_in_the_stage_2_view(tiny: Any, done: Done) -> None:
    """Margins in the file are those of the saved heads on exactly the vectors of its pair."""
    kernel_DxK = load_models(done.run)[0]["micro"].params["heads"]["kernel"]
    rows = np.arange(80, 120)
    delta_NxD = tiny.vectors["ctx/chosen"][rows] - tiny.vectors["ctx/rejected"][rows]
    micro = predictions(done.run, "micro")
    margins_NxK = [row["margins"] for row in micro[:40]]
    np.testing.assert_allclose(margins_NxK, delta_NxD @ kernel_DxK, atol=1e-4)
    accuracy = done.content["methods"]["micro"]["seeds"]["macro"][0]
    assert np.mean([row["correct"] for row in micro]) == pytest.approx(accuracy)
    table = parquet.read_table(done.run / "predictions.parquet").to_pylist()
    assert len(table) == 2 * 40 * (1 + 1 + 2 + 1 + 1)
    assert {row["pair_id"] for row in table} == {f"pair-{row}" for row in rows}


def test_the_store_is_only_read_whatever_k(done: Done, tiny: Any, tmp_path: Path) -> None:
    """One cache serves every K; only the head parameters differ."""
    other = replace(
        done.config,
        methods=["single_bt"],
        train=replace(done.config.train, num_heads=9),
        run=RunConfig(str(tmp_path), seed=5),
    )
    stages.train(other)
    assert checksums(tiny.store) == done.store_before
    one, same = (load_models(run)[0]["single_bt"].params for run in (done.run, tmp_path))
    # The same method, seed and features: not even K of the others leaves a trace.
    np.testing.assert_array_equal(one["heads"]["kernel"], same["heads"]["kernel"])


def test_a_budget_of_zero_scores_like_stage_1(done: Done, tmp_path: Path) -> None:
    config = replace(
        done.config, adapt=replace(done.config.adapt, budget=0), run=copy_models(done, tmp_path)
    )
    stages.adapt(config)
    methods = stages.evaluate(config)["methods"]
    for key in ("seeds", "nll", "ece"):
        assert methods["micro"][key] == methods["micro_stage1"][key]


def test_a_budget_that_no_method_draws_stops_no_evaluation(done: Done, tmp_path: Path) -> None:
    """A small data set can be trained and scored by methods that adapt to nothing."""
    config = replace(
        done.config,
        methods=["single_bt"],
        adapt=AdaptConfig(budget=60, pool=60),
        run=RunConfig(str(tmp_path), seed=5),
    )
    stages.train(config)
    assert stages.adapt(config) == ([], {})
    found = stages.evaluate(config)["methods"]["single_bt"]["macro"]
    assert found == pytest.approx(done.content["methods"]["single_bt"]["macro"])


def test_without_any_context_stage_2_is_left_out_with_a_reason(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    text = {**tiny.table.text, "context": [""] * len(tiny.table)}
    config = replace(done.config, store=store_beside(tiny, tmp_path / "store", text=text))
    added, skipped = stages.adapt(config)
    assert added == []
    assert list(skipped) == ["micro"]
    assert "no pair has both a label to adapt to and a context" in skipped["micro"]


def test_a_chosen_method_that_was_not_trained_says_so_in_the_report(
    done: Done, tmp_path: Path
) -> None:
    run = copy_models(done, tmp_path)
    report = stages.evaluate(replace(done.config, methods="length_only,micro", run=run))
    assert list(report["skipped"]) == ["length_only"]
    assert "run micro-rm train" in report["skipped"]["length_only"]


# --- labelled rows of the test split --------------------------------------------------------------


def test_rows_of_the_test_split_that_are_adapted_to_are_not_scored(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    """Nor are those with a prompt of theirs: both rows of it, one per attribute."""
    adapt = replace(done.config.adapt, source="test", budget=6)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    stages.adapt(config)
    report = stages.evaluate(config)
    assert report["budget"]["source"] == "test"
    run_data = stages.open_run_data(config)
    assert run_data.draws is not None
    rows = predictions(tmp_path, "micro")
    for draw, taken_B in enumerate(run_data.draws.rows_SxB):
        left_out = [row for row in rows if row["draw"] == draw and not row["scored"]]
        prompts = {tiny.table.text["prompt_id"][row] for row in taken_B}
        expected = [row for row in rows if row["draw"] == draw and row["prompt_id"] in prompts]
        assert left_out == expected and len(left_out) > len(taken_B)
    assert all(row["scored"] for row in predictions(tmp_path, "single_bt"))


@pytest.mark.long
def test_with_one_draw_the_count_beside_the_accuracy_is_what_is_left(
    done: Done, tmp_path: Path
) -> None:
    adapt = replace(done.config.adapt, source="test", budget=6, draws=1)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    stages.adapt(config)
    cells = stages.evaluate(config)["methods"]["micro"]["attributes"]
    run_data = stages.open_run_data(config)
    assert run_data.draws is not None
    prompts = {run_data.features.table.text["prompt_id"][row] for row in run_data.draws.rows_SxB[0]}
    assert [cell["n"] for cell in cells.values()] == [20 - len(prompts)] * 2
    (warning,) = [w for w in stages.evaluate(config)["warnings"] if w.startswith("Fewer")]
    assert "brief, polite" in warning


def test_a_budget_that_leaves_nothing_to_score_is_an_error_with_the_remedy(
    done: Done, tmp_path: Path
) -> None:
    adapt = replace(done.config.adapt, source="test", budget=20)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    with pytest.raises(
        EvaluationError,
        match=r"adapt\.budget takes every test row of attribute 'brief' in some draw",
    ):
        stages.evaluate(config)


def test_a_part_of_a_benchmark_is_no_benchmark_and_is_warned_of(
    done: Done, tiny: Any, tmp_path: Path
) -> None:
    subsets = {"brief": "hep-go", "polite": "math-prm"}
    names = [subsets.get(name, name) for name in tiny.table.text["attribute"]]
    store = store_beside(tiny, tmp_path / "store", text={**tiny.table.text, "attribute": names})
    report = stages.evaluate(replace(done.config, store=store, run=copy_models(done, tmp_path)))
    assert report["benchmark"] is None
    (warning,) = [w for w in report["warnings"] if w.startswith("RewardBench has no sections")]
    assert "alpacaeval-easy" in warning and "hep-go" not in warning


def test_users_can_be_adapted_to(done: Done, tmp_path: Path) -> None:
    """In the tiny store a user is an attribute under another name."""
    adapt = replace(done.config.adapt, group="user")
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    stages.adapt(config)
    report = stages.evaluate(config)
    assert report["budget"]["group"] == "user"
    assert report["methods"]["micro"] == done.content["methods"]["micro"]


def test_reporting_before_evaluating_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.json: nothing to report yet; run micro-rm eval"):
        write_report(Config(run=RunConfig(str(tmp_path))), no_prompts)


def test_models_are_scored_with_the_scaling_that_they_were_trained_with(
    done: Done, tmp_path: Path
) -> None:
    """Whatever the settings say by now: the scaler is part of the model."""
    other = "standardized" if done.config.train.features == "raw" else "raw"
    train, run = replace(done.config.train, features=other), copy_models(done, tmp_path)
    config = replace(done.config, train=train, run=run)
    methods = stages.evaluate(config)["methods"]
    assert methods["micro"] == done.content["methods"]["micro"]
