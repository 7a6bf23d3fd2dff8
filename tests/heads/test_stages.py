"""Training, adaptation and evaluation over a run directory, on the tiny store."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyarrow import parquet
from safetensors.numpy import load_file

from micro_rm.cache.native_head import write_native_head
from micro_rm.cache.pairs import PairTable, write_pairs
from micro_rm.cache.schema import StoreError, file_checksum
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, DataConfig, EvaluateConfig, RunConfig, StoreConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.display.report import write_report
from micro_rm.heads import stages
from micro_rm.heads.adaptation import BudgetError
from micro_rm.heads.checkpoint import load_models, save_models
from micro_rm.heads.evaluation.protocol import EvaluationError
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.model import ModelSpec
from micro_rm.heads.partition import partition

VALIDATED, ORACLE = "micro_stage1_best_head_validated", "micro_stage1_best_head_oracle"


def checksums(directory: Path) -> dict[str, str]:
    return {str(path): file_checksum(path) for path in directory.rglob("*") if path.is_file()}


def store_beside(tiny: Any, directory: Path, **changes: Any) -> StoreConfig:
    """The vectors of the tiny store under a pair table that differs in some fields."""
    table: PairTable = replace(tiny.table, **changes)
    (directory / "pairs").mkdir(parents=True)
    (directory / "manifest.json").write_bytes((tiny.store / "manifest.json").read_bytes())
    (directory / "shards").symlink_to(tiny.store / "shards")
    write_pairs(directory, table)
    return StoreConfig(str(directory))


def copy_models(done: Done, directory: Path) -> RunConfig:
    """A run directory with the trained models of another one."""
    for name in ("model.safetensors", "model.json"):
        (directory / name).write_bytes((done.run / name).read_bytes())
    return RunConfig(str(directory), seed=5)


def predictions(run: Path, method: str) -> list[dict[str, Any]]:
    table = parquet.read_table(run / "predictions.parquet", filters=[("method", "=", method)])
    return table.to_pylist()


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
    config = Config(
        methods="single_bt,micro",
        data=DataConfig(name="tiny"),
        store=StoreConfig(str(tiny.store)),
        train=TrainConfig(
            num_heads=4,
            learning_rate=0.02,
            batch_size=16,
            epochs=4,
            validation_fraction=0.2,
            router_units=16,
        ),
        adapt=AdaptConfig(budget=16, pool=32, draws=2, epochs=40, batch_size=8, learning_rate=0.02),
        evaluate=EvaluateConfig(bootstrap=100),
        run=RunConfig(str(run), seed=5),
    )
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
    }
    assert done.content["skipped"] == {}
    assert "<!doctype html>" in (done.run / "report.html").read_text("utf-8")


def test_every_row_of_the_table_says_what_it_is_and_what_it_is_told(done: Done) -> None:
    methods = done.content["methods"]
    assert {name: entry["told"] for name, entry in methods.items()} == {
        "single_bt": "prompt",
        "micro_stage1": "prompt",
        "micro": "wish",
        VALIDATED: "attribute",
        ORACLE: "attribute",
    }
    for name in ("single_bt", "micro_stage1", "micro"):
        assert methods[name]["summary"] == load_method(name).summary
    page = (done.run / "report.html").read_text("utf-8")
    assert methods[ORACLE]["summary"] in page


def test_stage_2_leaves_every_head_bit_as_stage_1_made_it(done: Done) -> None:
    """G-H7, on disk."""
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


def test_every_model_is_scored_on_the_test_rows_in_the_stage_2_view(tiny: Any, done: Done) -> None:
    """Margins in the file are those of the saved heads on exactly the vectors of its pair."""
    kernel_DxK = load_models(done.run)[0]["micro"].params["heads"]["kernel"]
    rows = np.arange(80, 120)
    delta_NxD = tiny.vectors["ctx/chosen"][rows] - tiny.vectors["ctx/rejected"][rows]
    margins_NxK = [row["margins"] for row in predictions(done.run, "micro")[:40]]
    np.testing.assert_allclose(margins_NxK, delta_NxD @ kernel_DxK, atol=1e-4)


def test_predictions_are_those_of_the_test_rows_only(tiny: Any, done: Done) -> None:
    table = parquet.read_table(done.run / "predictions.parquet").to_pylist()
    assert len(table) == 40 * (1 + 1 + 2 + 1 + 1)
    test_pairs = {f"pair-{row}" for row in range(80, 120)}
    assert {row["pair_id"] for row in table} == test_pairs
    correct = [row["correct"] for row in table if row["method"] == "micro"]
    assert np.mean(correct) == pytest.approx(done.content["methods"]["micro"]["macro"]["accuracy"])


def test_the_store_is_only_read_whatever_k(done: Done, tiny: Any, tmp_path: Path) -> None:
    """G-S20: one cache serves every K; only the head parameters differ."""
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


def test_a_run_without_validation_rows_writes_null_not_nan(done: Done, tmp_path: Path) -> None:
    config = replace(
        done.config,
        methods=["single_bt"],
        train=replace(done.config.train, epochs=1, validation_fraction=0.0),
        run=RunConfig(str(tmp_path)),
    )
    stages.train(config)
    assert '"validation_nll": null' in (tmp_path / "metrics.jsonl").read_text("utf-8")


@pytest.mark.long
def test_without_validation_rows_no_head_can_be_chosen_but_by_the_oracle(
    done: Done, tmp_path: Path
) -> None:
    config = replace(
        done.config,
        methods=["micro_stage1"],
        train=replace(done.config.train, epochs=1, validation_fraction=0.0),
        run=RunConfig(str(tmp_path)),
    )
    stages.train(config)
    assert list(stages.evaluate(config)["methods"]) == ["micro_stage1", ORACLE]


def test_a_budget_of_zero_scores_like_stage_1(done: Done, tmp_path: Path) -> None:
    """G-H12."""
    config = replace(
        done.config, adapt=replace(done.config.adapt, budget=0), run=copy_models(done, tmp_path)
    )
    stages.adapt(config)
    methods = stages.evaluate(config)["methods"]
    differing = {"told", "summary"}
    for key in methods["micro"].keys() - differing:
        assert methods["micro"][key] == methods["micro_stage1"][key]


def test_a_budget_beyond_the_pool_is_an_error_that_names_the_attribute(done: Done) -> None:
    config = replace(done.config, adapt=AdaptConfig(budget=60, pool=60))
    with pytest.raises(BudgetError, match=r"adapt\.budget: expected 60 .* 'brief', found \d+"):
        stages.adapt(config)


def test_a_budget_that_no_method_draws_stops_no_evaluation(done: Done, tmp_path: Path) -> None:
    """A small data set can be trained and scored by methods that adapt to nothing."""
    config = replace(
        done.config,
        methods=["single_bt"],
        adapt=AdaptConfig(budget=60, pool=60),
        run=RunConfig(str(tmp_path), seed=5),
    )
    stages.train(config)
    assert stages.adapt(config) == ({}, {})
    found = stages.evaluate(config)["methods"]["single_bt"]["macro"]
    assert found == done.content["methods"]["single_bt"]["macro"]


def test_without_any_context_stage_2_is_left_out_with_a_reason(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    text = {**tiny.table.text, "context": [""] * len(tiny.table)}
    config = replace(done.config, store=store_beside(tiny, tmp_path / "store", text=text))
    added, skipped = stages.adapt(config)
    assert added == {}
    assert list(skipped) == ["micro"]
    assert "no pair has both a label to adapt to and a context" in skipped["micro"]


def test_a_method_that_the_data_cannot_serve_is_left_out_of_training_too(
    done: Done, tmp_path: Path
) -> None:
    config = replace(
        done.config, methods="native_head,length_only", run=RunConfig(str(tmp_path), seed=5)
    )
    models, skipped = stages.train(config)
    assert list(models) == ["length_only"]
    assert skipped == {"native_head": "the backbone has no reward head of its own"}
    report = stages.evaluate(config)
    assert report["skipped"] == skipped
    assert list(report["methods"]) == ["length_only"]
    assert report["heads"] == {}


def test_a_chosen_method_that_was_not_trained_says_so_in_the_report(
    done: Done, tmp_path: Path
) -> None:
    run = copy_models(done, tmp_path)
    report = stages.evaluate(replace(done.config, methods="length_only,micro", run=run))
    assert list(report["skipped"]) == ["length_only"]
    assert "run micro-rm train" in report["skipped"]["length_only"]


def test_the_backbones_own_head_is_read_from_the_store_and_scored(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    """G-F1 to the table: accuracies are those of raw vectors times the head."""
    store = store_beside(tiny, tmp_path / "store")
    head_D = np.array([1, 0.2, 0, 0, 1, 0, 0, 0], np.float32)
    write_native_head(Path(store.dir), head_D)
    config = replace(
        done.config,
        methods="native_head",
        store=store,
        train=replace(done.config.train, features="standardized"),
        run=RunConfig(str(tmp_path / "run")),
    )
    stages.train(config)
    report = stages.evaluate(config)
    margin_N = (tiny.vectors["ctx/chosen"] - tiny.vectors["ctx/rejected"])[80:] @ head_D
    for number, name in enumerate(("brief", "polite")):
        found = report["methods"]["native_head"]["attributes"][name]["accuracy"]
        assert found == np.mean(margin_N[number::2] > 0)
    found_N = [row["probability"] for row in predictions(tmp_path / "run", "native_head")]
    np.testing.assert_allclose(found_N, 1 / (1 + np.exp(-margin_N)), rtol=1e-4)


# --- labelled rows of the test split --------------------------------------------------------------


def test_rows_of_the_test_split_that_are_adapted_to_are_not_scored(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    """G-B4: per draw the number of scored rows drops by exactly n per group."""
    adapt = replace(done.config.adapt, source="test", budget=6)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    stages.adapt(config)
    report = stages.evaluate(config)
    assert report["budget"]["source"] == "test"
    bench = stages.open_run_data(config)
    assert bench.draws is not None
    rows = predictions(tmp_path, "micro")
    for draw, taken_B in enumerate(bench.draws.rows_SxB):
        left_out = [row for row in rows if row["draw"] == draw and not row["scored"]]
        expected = {tiny.table.text["pair_id"][place] for place in taken_B}
        assert {row["pair_id"] for row in left_out} == expected
        for name in ("brief", "polite"):
            assert sum(row["attribute"] == name for row in left_out) == 6
    assert all(row["scored"] for row in predictions(tmp_path, "single_bt"))


@pytest.mark.long
def test_with_one_draw_the_count_beside_the_accuracy_is_what_is_left(
    done: Done, tmp_path: Path
) -> None:
    """G-B4."""
    adapt = replace(done.config.adapt, source="test", budget=6, draws=1)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    stages.adapt(config)
    cells = stages.evaluate(config)["methods"]["micro"]["attributes"]
    assert [cell["n"] for cell in cells.values()] == [20 - 6, 20 - 6]
    (warning,) = [w for w in stages.evaluate(config)["warnings"] if w.startswith("Fewer")]
    assert "brief, polite" in warning


def test_a_budget_that_leaves_nothing_to_score_is_an_error_with_the_remedy(
    done: Done, tmp_path: Path
) -> None:
    adapt = replace(done.config.adapt, source="test", budget=20)
    config = replace(done.config, adapt=adapt, run=copy_models(done, tmp_path))
    with pytest.raises(
        EvaluationError, match=r"adapt\.budget takes every test row of attribute 'brief'; lower it"
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


# --- mistakes -------------------------------------------------------------------------------------


def test_vectors_made_under_other_settings_are_refused_by_name(done: Done) -> None:
    """Only what changes a vector counts: the same weights may lie under another name."""
    other = replace(done.config.backbone, max_length=77, name="elsewhere")
    with pytest.raises(StoreError) as caught:
        stages.train(replace(done.config, backbone=other))
    message = str(caught.value)
    assert "backbone.max_length: the store has" in message
    assert "this run has 77" in message
    assert "backbone.name" not in message
    assert "run micro-rm embed" in message


def test_the_best_head_is_chosen_on_validation_rows_and_no_others(
    tiny: Any, done: Done, tmp_path: Path
) -> None:
    """G-E8 through the stages, on forty heads that read noise: every set of rows prefers another.

    No test row takes part in the choice, and the oracle is above it.
    """
    kernel_DxK = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32)
    kernel_DxK[:2] = 0  # where the tastes are
    spec = ModelSpec(8, 40, "static")
    params = {"heads": {"kernel": kernel_DxK}, "router": {"logits": np.zeros((1, 40), np.float32)}}
    guessing = Trained(params, {"spec": asdict(spec)})
    save_models(tmp_path, {"micro_stage1": guessing}, Scaler.identity(8))
    report = stages.evaluate(replace(done.config, run=RunConfig(str(tmp_path), seed=5)))
    parts = partition(tiny.table, done.config.train.validation_fraction)
    delta_NxD = tiny.vectors["plain/chosen"] - tiny.vectors["plain/rejected"]

    def accuracy(rows: np.ndarray, attribute: int) -> np.ndarray:
        return ((delta_NxD[rows[rows % 2 == attribute]] @ kernel_DxK) > 0).mean(axis=0)

    def shown(row: str) -> list[float]:
        return [cell["accuracy"] for cell in report["methods"][row]["attributes"].values()]

    def chosen_by(rows: np.ndarray) -> list[float]:
        """Test accuracy per attribute of the head that is best on some rows."""
        best = [int(np.argmax(accuracy(rows, attribute))) for attribute in (0, 1)]
        return [float(accuracy(parts.test, a)[head]) for a, head in enumerate(best)]

    validated, oracle, by_training = map(chosen_by, (parts.validation, parts.test, parts.train))
    assert shown(VALIDATED) == pytest.approx(validated)
    assert shown(ORACLE) == pytest.approx(oracle)
    assert validated != by_training, "the example must tell them apart"
    assert all(best >= other for best, other in zip(oracle, validated, strict=True))
    assert sum(oracle) > sum(validated)


def test_reporting_before_evaluating_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.json: nothing to report yet; run micro-rm eval"):
        write_report(Config(run=RunConfig(str(tmp_path))), no_prompts)


def test_adapting_before_training_is_an_error_with_the_remedy(done: Done, tmp_path: Path) -> None:
    config = replace(done.config, run=RunConfig(str(tmp_path)))
    with pytest.raises(StoreError, match="no trained model here; run micro-rm train"):
        stages.adapt(config)


def test_a_data_set_that_was_not_embedded_lists_those_that_were(done: Done) -> None:
    config = replace(done.config, data=DataConfig(name="absent"))
    with pytest.raises(StoreError, match=r"no pair table 'absent' \(found: tiny\)"):
        stages.train(config)


def test_models_are_scored_with_the_scaling_that_they_were_trained_with(
    done: Done, tmp_path: Path
) -> None:
    """Whatever the settings say by now: the scaler is part of the model."""
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).write_bytes((done.run / name).read_bytes())
    other = "standardized" if done.config.train.features == "raw" else "raw"
    config = replace(
        done.config,
        train=replace(done.config.train, features=other),
        run=RunConfig(str(tmp_path), seed=5),
    )
    methods = stages.evaluate(config)["methods"]
    assert methods["micro"] == done.content["methods"]["micro"]


# --- damaged stores -------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny: Any, done: Done, tmp_path: Path) -> Config:
    """The run's configuration over a copy of the tiny store, which may be damaged."""
    store = tmp_path / "store"
    shutil.copytree(tiny.store, store)
    write_native_head(store, np.ones(8))
    return replace(done.config, store=StoreConfig(str(store)))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["shards/000000.h5", "pairs/tiny.h5", "native_head.h5"])
def test_a_changed_byte_is_found_before_anything_is_learnt(name: str, copied: Config) -> None:
    store = Path(copied.store.dir)
    stages.open_run_data(copied)
    flip(store / name, -1)
    with pytest.raises(StoreError, match=f"{name}: .*(bytes)"):
        stages.open_run_data(copied)


def test_checksums_can_be_left_out_but_not_what_is_cheap(copied: Config, tiny: Any) -> None:
    """Who leaves them out still hears of NaN, of other shards and of a missing file."""
    store = Path(copied.store.dir)
    config = replace(copied, store=replace(copied.store, checksum=False))
    shard = store / "shards" / "000000.h5"
    with h5py.File(shard, "r+") as file:
        vectors = file["vectors"]
        assert isinstance(vectors, h5py.Dataset)
        vectors[:] = np.full(vectors.shape, np.nan) if vectors.dtype == np.float32 else 0x7FC0
    bench = stages.open_run_data(config)
    rows = np.arange(3)
    with pytest.raises(StoreError, match="holds NaN or infinity; micro-rm verify"):
        bench.features.stored(rows, "ctx", "chosen")
    write_pairs(store, replace(tiny.table, layout="1:" + "0" * 32))
    with pytest.raises(StoreError, match="'tiny' are those of other shards"):
        stages.open_run_data(config)
    shard.unlink()
    with pytest.raises(StoreError, match=r"000000\.h5: missing"):
        stages.open_run_data(config)
