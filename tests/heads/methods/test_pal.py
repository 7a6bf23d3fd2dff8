"""PAL: invariances of its two rewards, and groups found among prototypes."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig, PalConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.adaptation import BudgetError
from micro_rm.heads.losses import head_nll
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Sides, Trained
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.methods.pal import (
    SCALE_INIT,
    Inputs,
    init_model,
    margin,
    nearness,
    project,
    scaled,
)
from micro_rm.heads.rows import Rows

D, N, S, PLACES, GROUPS = 4, 600, 2, 12, 2
# A rate at which training needs hundreds of steps to move the numbers of its groups.
OPTIONS = PalConfig(
    hidden=16,
    latent=8,
    learning_rate=1e-2,
    user_learning_rate=1e-2,
    epochs=40,
    batch_size=64,
)
VARIANTS = ("A", "B")


def sides(seed: int, group: np.ndarray) -> Sides:
    """Group 0 wants the first coordinate high, group 1 low; others as group 0."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, *group.shape, D)).astype(np.float32)
    wants = np.where(group == 1, -1, 1)
    swap = ((first - second)[..., 0] * wants < 0)[..., None]
    return Sides(np.where(swap, second, first), np.where(swap, first, second))


def prompts(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng((seed, 1)).normal(size=(*shape, D)).astype(np.float32)


def examples(seed: int, group_N: np.ndarray) -> Examples:
    both, prompt = sides(seed, group_N), prompts(seed, group_N.size)
    rows = Rows(jnp.asarray(both.chosen_NxD - both.rejected_NxD), jnp.asarray(prompt))
    nobody = np.full(group_N.size, NO_LABEL)
    return Examples(rows, nobody, nobody, group_N, nobody, lambda: both)


def budget(places: int, mask: np.ndarray | None = None) -> Budget:
    group_B = np.repeat(np.arange(GROUPS), places)
    both = sides(7, np.tile(group_B, (S, 1)))
    mask = np.ones((S, group_B.size), np.float32) if mask is None else mask
    delta = jnp.asarray(both.chosen_NxD - both.rejected_NxD)
    rows = Rows(delta, jnp.asarray(prompts(7, S, group_B.size)))
    return Budget(rows, group_B, np.zeros(mask.shape, int), mask, lambda: both)


def problem(variant: str = "A", **changes: object) -> Problem:
    alternate = np.arange(N) % GROUPS
    plain = Problem(
        width=D,
        train=examples(0, alternate),
        validation=examples(1, alternate[:0]),
        train_config=TrainConfig(),
        adapt_config=AdaptConfig(),
        baselines=BaselinesConfig(pal=replace(OPTIONS, variant=variant)),
        key=jax.random.key(0),
        groups=("high", "low"),
        budget=budget(PLACES),
    )
    return replace(plain, **changes)


TEST = examples(2, np.arange(200) % GROUPS)


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request: pytest.FixtureRequest) -> Trained:
    return load_method("pal").fit(problem(request.param), {})


def test_a_reward_is_a_distance_or_a_scaled_cosine() -> None:
    item, point = jnp.array([[3.0, 4.0]]), jnp.array([[3.0, 0.0]])
    assert float(nearness("A", item, point, jnp.array(0.0))[0]) == pytest.approx(-4.0)
    for log_scale, scale in ((np.log(5.0), 5.0), (SCALE_INIT, 1 / 0.07), (20.0, 100.0)):
        near = nearness("B", item, point, jnp.array(log_scale))
        assert float(near[0]) == pytest.approx(scale * 0.6, rel=1e-5)


@given(st.floats(0.01, 100), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_knows_no_common_shift_and_b_no_scale(scale: float, seed: int) -> None:
    """The rewards, without the projectors."""
    item, point, shift = jax.random.normal(jax.random.key(seed), (3, 4, 5))
    log_scale = jnp.array(SCALE_INIT)
    np.testing.assert_allclose(
        nearness("A", item + shift, point + shift, log_scale),
        nearness("A", item, point, log_scale),
        atol=1e-4,
    )
    near = nearness("B", item, point, log_scale)
    np.testing.assert_allclose(nearness("B", scale * item, point, log_scale), near, atol=1e-4)
    np.testing.assert_allclose(nearness("B", item, scale * point, log_scale), near, atol=1e-4)


def test_b_is_invariant_to_the_scale_of_the_responses(trained: Trained) -> None:
    """The whole model, from features to margins."""
    both = TEST.load_sides()
    loud = replace(TEST, load_sides=lambda: Sides(30 * both.chosen_NxD, both.rejected_NxD))
    one, two = (load_method("pal").predict(trained, part).statistic_SxN for part in (TEST, loud))
    if trained.settings["variant"] == "B":
        np.testing.assert_allclose(one, two, atol=1e-3)
    else:
        assert np.abs(one - two).max() > 0.1


def test_a_point_is_the_mean_of_the_prototypes_under_the_weights() -> None:
    params = init_model(D, 1, OPTIONS, jax.random.key(0))
    inputs = Inputs(*np.random.default_rng(0).normal(size=(3, 2, D)).astype(np.float32))
    rows = project("A", params, inputs)
    weights = np.array([[0.3, 0.7], [1.0, 0.0]])
    point = weights @ np.asarray(rows.prototype_NxKxL)[0]
    expected = np.linalg.norm(rows.rejected_NxL - point, axis=-1) - np.linalg.norm(
        rows.chosen_NxL - point, axis=-1
    )
    found = margin("A", rows, jnp.asarray(weights, jnp.float32), params["log_scale"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_opposite_tastes_are_told_apart_by_their_labelled_pairs(trained: Trained) -> None:
    prediction = load_method("pal").predict(trained, TEST)
    assert prediction.statistic_SxN.shape == (S, 200)
    assert prediction.heads is None
    # B gives every response the same length, which costs it the pairs that differ in length.
    enough = {"A": 0.9, "B": 0.85}[trained.settings["variant"]]
    assert ((prediction.statistic_SxN > 0).mean(axis=1) > enough).all()
    assert set(trained.curves) == {"objective"}


def test_new_weights_are_a_minimum_of_the_loss_of_the_labelled_rows(trained: Trained) -> None:
    variant, labelled = trained.settings["variant"], budget(PLACES)

    def loss(logits_SxGxK: jax.Array) -> jax.Array:
        """Sum over draws and groups of the mean loss of a group's labelled rows."""
        total = jnp.array(0.0)
        for draw in range(S):
            sides = (side[draw] for side in labelled.load_sides())
            read = Inputs(*sides, labelled.rows.router_input_NxD[draw])
            scale = trained.settings["scale"]
            rows = project(variant, trained.params, scaled(variant, scale, read))
            weights_BxK = jax.nn.softmax(logits_SxGxK[draw][labelled.group_B], axis=-1)
            nll_B = head_nll(margin(variant, rows, weights_BxK, trained.params["log_scale"]))
            total += jnp.sum(nll_B) / PLACES
        return total

    loss_and_gradient = jax.jit(jax.value_and_grad(loss))
    logits_SxGxK = jnp.log(jnp.maximum(trained.params["weights"], 1e-30))
    value, gradient = loss_and_gradient(logits_SxGxK)
    assert float(jnp.abs(gradient).max()) < 1e-3
    for seed in range(20):  # nothing nearby is better
        step = 0.3 * jax.random.normal(jax.random.key(seed), logits_SxGxK.shape)
        assert loss_and_gradient(logits_SxGxK + step)[0] > value - 1e-4


def test_a_stalled_line_search_is_not_the_end_of_the_fit() -> None:
    """With one run of L-BFGS an entry of the gradient is left near 1e-3 here."""
    options = replace(OPTIONS, variant="B", prototypes=8)
    many = problem(budget=budget(50), baselines=BaselinesConfig(pal=options))
    assert load_method("pal").fit(many, {}).settings["largest_gradient"] < 5e-4


def test_new_weights_move_as_far_as_those_of_trained_groups(trained: Trained) -> None:
    """Half the sum of absolute differences from the mean weights."""
    known_GxK = jax.nn.softmax(trained.params["groups"], axis=-1)
    far_G, moved_SxG = (
        np.abs(np.asarray(weights) - np.asarray(trained.params["prior"])).sum(axis=-1) / 2
        for weights in (known_GxK, trained.params["weights"])
    )
    assert far_G.min() > 0.1
    assert moved_SxG.mean() > 0.8 * far_G.mean()


def test_a_few_labelled_rows_serve_new_weights_about_as_well_as_all_training_rows(
    trained: Trained,
) -> None:
    predict = load_method("pal").predict
    known_1xGxK = jax.nn.softmax(trained.params["groups"], axis=-1)[None]
    known = replace(trained, params={**trained.params, "weights": known_1xGxK})
    few, all_rows = ((predict(model, TEST).statistic_SxN > 0).mean() for model in (trained, known))
    assert few > all_rows - 0.05


@pytest.mark.parametrize("trained", ["B"], indirect=True)
def test_only_the_weights_are_fitted_to_the_labelled_rows(trained: Trained) -> None:
    """The labels of both groups swapped: the frozen part is the same, the answers are not."""
    plain = budget(PLACES)
    other = replace(plain, load_sides=lambda: Sides(*plain.load_sides()[::-1]))
    variant = trained.settings["variant"]
    swapped = load_method("pal").fit(problem(variant, budget=other), {})
    for name in ("projector", "prototypes", "log_scale", "prior"):
        jax.tree.map(np.testing.assert_array_equal, swapped.params[name], trained.params[name])
    prediction = load_method("pal").predict(swapped, TEST)
    assert (prediction.statistic_SxN > 0).mean() < 0.15
    np.testing.assert_allclose(trained.params["weights"].sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("trained", ["A"], indirect=True)
def test_a_group_without_labelled_rows_gets_the_mean_weights(trained: Trained) -> None:
    method, variant = load_method("pal"), trained.settings["variant"]
    unknown = method.predict(trained, replace(TEST, group_N=np.full(200, NO_LABEL)))
    np.testing.assert_array_equal(unknown.statistic_SxN[0], unknown.statistic_SxN[1])
    assert 0.3 < (unknown.statistic_SxN > 0).mean() < 0.7
    weights = np.asarray(jax.nn.softmax(trained.params["groups"], axis=-1))
    np.testing.assert_allclose(trained.params["prior"], weights.mean(axis=0), atol=1e-6)
    mask = np.ones((S, GROUPS * PLACES), np.float32)
    mask[:, :PLACES] = 0
    for empty, rows in ((budget(0), slice(None)), (budget(PLACES, mask), TEST.group_N == 0)):
        found = method.predict(method.fit(problem(variant, budget=empty), {}), TEST)
        np.testing.assert_allclose(
            found.statistic_SxN[:, rows], unknown.statistic_SxN[:, rows], atol=1e-4
        )


@pytest.mark.parametrize("trained", ["A"], indirect=True)
def test_rows_of_nobody_teach_nothing(trained: Trained) -> None:
    known, nobody = problem().train, np.full(N, NO_LABEL)
    more = Sides(*(np.concatenate([np.full_like(s, np.nan), s]) for s in known.load_sides()))
    prompt_NxD = known.rows.router_input_NxD
    train = replace(
        known,
        data=Rows(prompt_NxD, jnp.concatenate([prompt_NxD * jnp.nan, prompt_NxD])),
        group_N=np.concatenate([nobody, known.group_N]),
        load_sides=lambda: more,
    )
    again = load_method("pal").fit(problem(trained.settings["variant"], train=train), {})
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


def test_a_group_without_training_rows_has_no_part_in_the_mean_weights() -> None:
    trained = load_method("pal").fit(problem(train=examples(0, np.zeros(N, int))), {})
    only = jax.nn.softmax(trained.params["groups"][0])
    np.testing.assert_allclose(trained.params["prior"], only, atol=1e-6)


def test_no_training_row_of_a_group_is_an_error_with_a_remedy() -> None:
    with pytest.raises(BudgetError, match=r"found none; set adapt\.source=train"):
        load_method("pal").fit(problem(train=examples(0, np.full(N, NO_LABEL))), {})


def test_training_that_diverges_is_an_error_with_a_remedy() -> None:
    rows = replace(
        problem().train, load_sides=lambda: Sides(*np.full((2, N, D), np.nan, np.float32))
    )
    with pytest.raises(
        DivergenceError, match=r"pal diverged .* lower baselines\.pal\.learning_rate"
    ):
        load_method("pal").fit(problem(train=rows), {})
