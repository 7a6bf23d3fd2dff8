"""Kernel Hedge as a method: on a simulated population and on its own pieces."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig, KernelConfig
from micro_rm.configs.baselines import BaselinesConfig
from micro_rm.configs.schema import Config, DataConfig, ViewsConfig
from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.evaluation.protocol import make_test_set
from micro_rm.heads.fitting import fit_methods, of_seed, score_models
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Sides, Trained
from micro_rm.heads.methods.micro_kernel import pooled_mean
from micro_rm.heads.rows import Rows
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
def run_data() -> RunData:
    return open_run_data(CONFIG)


@pytest.fixture(scope="module")
def stage1(run_data: RunData) -> dict[str, Trained]:
    models, _ = fit_methods([load_method("micro_stage1")], [run_data.problem(adapt=False)], {})
    return of_seed(models, 0)


def adapted(run_data: RunData, stage1: dict[str, Trained]) -> Trained:
    return load_method("micro_kernel").fit(run_data.problem(adapt=True), stage1)


def accuracy(run_data: RunData, trained: Trained) -> float:
    test = make_test_set(run_data.features.table, run_data.parts.test)
    (scored,) = score_models(run_data, {"micro_kernel": [trained]}, test)["micro_kernel"]
    return float(scored.mean_correct_N.mean())


def test_opposed_tastes_are_served_by_wordings_that_were_never_seen(
    run_data: RunData, stage1: dict[str, Trained]
) -> None:
    """A reward that ignores the wish is at one half here."""
    assert accuracy(run_data, adapted(run_data, stage1)) > 0.8


def test_without_labelled_rows_every_head_weighs_the_same(
    run_data: RunData, stage1: dict[str, Trained]
) -> None:
    config = replace(CONFIG, adapt=replace(CONFIG.adapt, budget=0))
    empty = RunData(config, run_data.features)
    trained = adapted(empty, stage1)
    heads = load_method("micro_kernel").predict(trained, empty.stage2(empty.parts.test[:5])).heads
    assert heads is not None
    np.testing.assert_allclose(np.exp(heads.log_weights_SxNxK), 1 / 4, atol=1e-6)


def test_heads_are_those_of_stage_1_scaled_to_margins_of_unit_size(
    run_data: RunData, stage1: dict[str, Trained]
) -> None:
    before = stage1["micro_stage1"].params["heads"]["kernel"]
    after = adapted(run_data, stage1).params["heads"]["kernel"]
    ratio_DxK = after / np.asarray(before)
    np.testing.assert_allclose(ratio_DxK, np.broadcast_to(ratio_DxK[0], ratio_DxK.shape), rtol=1e-4)
    margin_NxK = np.asarray(run_data.stage1(run_data.parts.train).rows.delta_NxD) @ after
    np.testing.assert_allclose(np.sqrt((margin_NxK**2).mean(axis=0)), 1, rtol=1e-4)


def test_the_scaling_of_features_changes_no_kernel(
    run_data: RunData, stage1: dict[str, Trained]
) -> None:
    """Wishes and responses are compared as they are stored, whatever stage 1 reads."""
    trained = adapted(run_data, stage1)
    raw = RunData(replace(CONFIG, train=replace(CONFIG.train, features="raw")), run_data.features)
    scale_Dx1 = run_data.scaler.delta_scale_D[:, None]
    unscaled = Trained(
        {
            "heads": {
                "kernel": np.asarray(stage1["micro_stage1"].params["heads"]["kernel"]) / scale_Dx1
            }
        }
    )
    other = load_method("micro_kernel").fit(raw.problem(adapt=True), {"micro_stage1": unscaled})
    rows = run_data.parts.test[:50]
    predict = load_method("micro_kernel").predict
    np.testing.assert_allclose(
        predict(trained, run_data.stage2(rows)).statistic_SxN,
        predict(other, raw.stage2(rows)).statistic_SxN,
        rtol=1e-3,
        atol=1e-4,
    )


def test_pooling_over_wordings_and_over_groups_differ(
    run_data: RunData, stage1: dict[str, Trained]
) -> None:
    by_group = adapted(run_data, stage1).params["router"]["kernel"]
    config = replace(CONFIG, adapt=replace(CONFIG.adapt, kernel=KernelConfig(targets="wording")))
    by_wording = adapted(RunData(config, run_data.features), stage1).params["router"]["kernel"]
    assert np.abs(by_group - by_wording).max() > 1e-3


def test_a_pooled_mean_is_the_mean_of_its_pool() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 0.0]])
    np.testing.assert_allclose(
        pooled_mean(values, np.array([7, 2, 7])), [[3.0, 1.0], [3.0, 6.0], [3.0, 1.0]]
    )


SLOTS, WIDTH = 40, 6


def taste_rows(seed: int, group_N: np.ndarray) -> tuple[Rows, Sides]:
    """Pairs of a population whose tastes share the first coordinate; contexts are noisy codes.

    Group g also likes coordinate g + 1 a little, and its contexts lie near axis g + 1.
    """
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, group_N.size, WIDTH)).astype(np.float32)
    axes_GxD = np.eye(WIDTH, dtype=np.float32)[1:]
    reward_NxD = np.eye(WIDTH, dtype=np.float32)[0] + 0.3 * axes_GxD[group_N]
    swap = (np.sum((first - second) * reward_NxD, axis=-1) < 0)[:, None]
    sides = Sides(np.where(swap, second, first), np.where(swap, first, second))
    context_NxD = 3 * axes_GxD[group_N] + rng.normal(size=(group_N.size, WIDTH), scale=0.3)
    delta_NxD = sides.chosen_NxD - sides.rejected_NxD
    return Rows(jnp.asarray(delta_NxD), jnp.asarray(context_NxD, jnp.float32)), sides


def taste_problem(groups: int, targets: str) -> Problem:
    """One draw of labelled rows; every row has a context of its own."""
    group_B = np.repeat(np.arange(groups), SLOTS)
    rows, sides = taste_rows(0, group_B)
    nobody = np.full(group_B.size, NO_LABEL)
    train = Examples(rows, nobody, nobody, group_B, nobody, lambda: sides)
    first = jax.tree.map(lambda array: array[None], rows)
    wording_1xB = np.arange(group_B.size)[None]
    return Problem(
        width=WIDTH,
        train=train,
        validation=train,
        train_config=TrainConfig(),
        adapt_config=replace(AdaptConfig(), kernel=replace(KernelConfig(), targets=targets)),
        baselines=BaselinesConfig(),
        key=jax.random.key(0),
        groups=tuple("abcde"[:groups]),
        budget=Budget(first, group_B, wording_1xB, np.ones((1, group_B.size)), lambda: sides),
    )


def heads(*columns: list[float]) -> dict[str, Trained]:
    kernel_DxK = np.zeros((WIDTH, len(columns)), np.float32)
    for number, column in enumerate(columns):
        kernel_DxK[: len(column), number] = column
    return {"micro_stage1": Trained({"heads": {"kernel": kernel_DxK}})}


def weights_on_new_rows(problem: Problem, stage1: dict[str, Trained]) -> np.ndarray:
    """Weights (N, K) under contexts that the fit has not seen."""
    trained = load_method("micro_kernel").fit(problem, stage1)
    rows, sides = taste_rows(1, np.arange(60) % len(problem.groups))
    nobody = np.full(60, NO_LABEL)
    examples = Examples(rows, nobody, nobody, nobody, nobody, lambda: sides)
    found = load_method("micro_kernel").predict(trained, examples).heads
    assert found is not None
    return np.exp(found.log_weights_SxNxK[0])


@pytest.mark.parametrize("targets", ["group", "wording"])
def test_the_head_that_is_best_under_every_context_weighs_most_everywhere(targets: str) -> None:
    """Head 0 is what all groups share, 1 and 2 what one of them likes, 3 is always wrong."""
    stage1 = heads([1.0], [0.0, 1.0], [0.0, 0.0, 1.0], [-1.0])
    weights_NxK = weights_on_new_rows(taste_problem(2, targets), stage1)
    np.testing.assert_array_equal(weights_NxK.argmax(axis=1), 0)
    assert weights_NxK[:, 0].min() > 0.7
    assert weights_NxK[:, 3].max() < 1e-3


def test_the_labels_of_a_single_attribute_weigh_the_heads_by_hedge() -> None:
    problem, stage1 = taste_problem(1, "group"), heads([1.0], [0.9, 0.5], [-1.0])
    kernel_DxK = stage1["micro_stage1"].params["heads"]["kernel"]
    margin_NxK = np.asarray(problem.train.rows.delta_NxD) @ kernel_DxK
    unit_NxK = margin_NxK / np.sqrt(np.mean(margin_NxK**2, axis=0))
    hedge_K = np.exp(-np.log1p(np.exp(-unit_NxK)).mean(axis=0) / problem.adapt_config.kernel.tau)
    expected_NxK = np.broadcast_to(hedge_K / hedge_K.sum(), (60, 3))
    assert expected_NxK[0, :2].min() > 0.01
    np.testing.assert_allclose(weights_on_new_rows(problem, stage1), expected_NxK, atol=1e-5)
