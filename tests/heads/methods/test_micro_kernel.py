"""Kernel Hedge as a method: on a simulated population and on its own pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig, KernelConfig
from micro_rm.configs.schema import Config, DataConfig, ViewsConfig
from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.evaluation.protocol import make_test_set
from micro_rm.heads.fitting import fit_methods, of_seed, score_models
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.methods.micro_kernel import pooled_mean
from micro_rm.heads.run_data import RunData
from micro_rm.heads.stages import open_run_data

CONFIG = Config(
    data=DataConfig(
        source="simulator",
        simulator=SimulatorConfig(pairs=1500, test_pairs=400, width=16, directions=2, opposed=True),
    ),
    views=ViewsConfig(adapt_head="plain", adapt_router="context"),
    train=TrainConfig(
        num_heads=4,
        learning_rate=0.02,
        epochs=25,
        entropy_weight=0.05,
        router="linear",
        select="last",
        features="standardized",
    ),
    adapt=AdaptConfig(budget=30, pool=60, draws=2),
)


@pytest.fixture(scope="module")
def bench() -> RunData:
    return open_run_data(CONFIG)


@pytest.fixture(scope="module")
def stage1(bench: RunData) -> dict[str, Trained]:
    models, _ = fit_methods([load_method("micro_stage1")], [bench.problem(adapt=False)], {})
    return of_seed(models, 0)


def adapted(bench: RunData, stage1: dict[str, Trained]) -> Trained:
    return load_method("micro_kernel").fit(bench.problem(adapt=True), stage1)


def accuracy(bench: RunData, trained: Trained) -> float:
    test = make_test_set(bench.features.table, bench.parts.test)
    (scored,) = score_models(bench, {"micro_kernel": [trained]}, test)["micro_kernel"]
    return float(scored.mean_correct_N.mean())


def test_opposed_tastes_are_served_by_wordings_that_were_never_seen(
    bench: RunData, stage1: dict[str, Trained]
) -> None:
    """G-H13: a reward that ignores the wish is at one half here."""
    assert accuracy(bench, adapted(bench, stage1)) > 0.8


def test_without_labelled_rows_every_head_weighs_the_same(
    bench: RunData, stage1: dict[str, Trained]
) -> None:
    config = replace(CONFIG, adapt=replace(CONFIG.adapt, budget=0))
    empty = RunData(config, bench.features)
    trained = adapted(empty, stage1)
    heads = load_method("micro_kernel").predict(trained, empty.stage2(empty.parts.test[:5])).heads
    assert heads is not None
    np.testing.assert_allclose(np.exp(heads.log_weights_SxNxK), 1 / 4, atol=1e-6)


def test_heads_are_those_of_stage_1_scaled_to_margins_of_unit_size(
    bench: RunData, stage1: dict[str, Trained]
) -> None:
    before = stage1["micro_stage1"].params["heads"]["kernel"]
    after = adapted(bench, stage1).params["heads"]["kernel"]
    ratio_DxK = after / np.asarray(before)
    np.testing.assert_allclose(ratio_DxK, np.broadcast_to(ratio_DxK[0], ratio_DxK.shape), rtol=1e-4)
    margin_NxK = np.asarray(bench.stage1(bench.parts.train).rows.delta_NxD) @ after
    np.testing.assert_allclose(np.sqrt((margin_NxK**2).mean(axis=0)), 1, rtol=1e-4)


def test_the_scaling_of_features_changes_no_kernel(
    bench: RunData, stage1: dict[str, Trained]
) -> None:
    """Wishes and responses are compared as they are stored, whatever stage 1 reads."""
    trained = adapted(bench, stage1)
    raw = RunData(replace(CONFIG, train=replace(CONFIG.train, features="raw")), bench.features)
    scale_Dx1 = bench.scaler.delta_scale_D[:, None]
    unscaled = Trained(
        {
            "heads": {
                "kernel": np.asarray(stage1["micro_stage1"].params["heads"]["kernel"]) / scale_Dx1
            }
        }
    )
    other = load_method("micro_kernel").fit(raw.problem(adapt=True), {"micro_stage1": unscaled})
    rows = bench.parts.test[:50]
    predict = load_method("micro_kernel").predict
    np.testing.assert_allclose(
        predict(trained, bench.stage2(rows)).statistic_SxN,
        predict(other, raw.stage2(rows)).statistic_SxN,
        rtol=1e-3,
        atol=1e-4,
    )


def test_pooling_over_wordings_and_over_groups_differ(
    bench: RunData, stage1: dict[str, Trained]
) -> None:
    by_group = adapted(bench, stage1).params["router"]["kernel"]
    config = replace(CONFIG, adapt=replace(CONFIG.adapt, kernel=KernelConfig(targets="wording")))
    by_wording = adapted(RunData(config, bench.features), stage1).params["router"]["kernel"]
    assert np.abs(by_group - by_wording).max() > 1e-3


def test_a_pooled_mean_is_the_mean_of_its_pool() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 0.0]])
    np.testing.assert_allclose(
        pooled_mean(values, np.array([7, 2, 7])), [[3.0, 1.0], [3.0, 6.0], [3.0, 1.0]]
    )
