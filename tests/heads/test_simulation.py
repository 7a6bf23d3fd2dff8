"""The simulator: what it plants, what it promises, and that the training code finds it again."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.cache.pairs import ROLES, VIEWS, read_pairs, write_pairs
from micro_rm.cache.schema import StoreError
from micro_rm.common.errors import ConfigError
from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.features import Features
from micro_rm.heads.losses import mixture_nll
from micro_rm.heads.matching import recovery
from micro_rm.heads.model import ModelSpec, init, log_weights, margins
from micro_rm.heads.partition import partition
from micro_rm.heads.rows import Rows
from micro_rm.heads.simulation import Simulation, floors, simulate, win_probability
from micro_rm.heads.training import fit

# Five standard errors: a right program fails one check in three million.
SIGMAS = 5
SMALL = SimulatorConfig(pairs=301, test_pairs=101, width=12)
LARGE = SimulatorConfig(pairs=20_000, test_pairs=10, width=8)


@cache
def simulated(config: SimulatorConfig) -> Simulation:
    return simulate(config, "simulated")


def rows_of(simulation: Simulation, split: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(simulation.table.text["split"]) == split)


def vectors(simulation: Simulation, key: str, rows: np.ndarray | None = None) -> np.ndarray:
    places = simulation.table.rows[key]
    return simulation.store.vectors(places if rows is None else places[rows])


def answers(simulation: Simulation) -> np.ndarray:
    """(N, 2, D) answers in the order in which they were drawn."""
    sides = np.stack([vectors(simulation, f"plain/{role}") for role in ("chosen", "rejected")], 1)
    return np.where(first_wins(simulation)[:, None, None], sides, sides[:, ::-1])


def first_wins(simulation: Simulation) -> np.ndarray:
    return np.array([text.startswith("first") for text in simulation.table.text["chosen"]])


def contents(simulation: Simulation) -> dict[str, Any]:
    """Everything that a simulation holds, by name."""
    everything = {key: vectors(simulation, key) for key in simulation.table.rows}
    everything |= {f"text/{key}": np.array(text) for key, text in simulation.table.text.items()}
    truth = ("directions_DxK", "group_N", "membership_NxK", "margin_NxK", "flipped_N")
    return everything | {name: getattr(simulation, name) for name in truth}


# What is drawn


def test_the_seed_decides_every_byte() -> None:
    one, same = contents(simulated(SMALL)), contents(simulate(SMALL, "simulated"))
    other = contents(simulated(replace(SMALL, seed=1)))
    assert one.keys() == same.keys()
    for key, value in one.items():
        assert value.tobytes() == same[key].tobytes(), key
    for key in ("plain/prompt", "plain/chosen", "context/prompt", "directions_DxK", "group_N"):
        assert one[key].tobytes() != other[key].tobytes(), key
    assert not set(one["text/prompt_id"]) & set(other["text/prompt_id"])


def test_more_pairs_keep_the_first_ones_and_the_other_split() -> None:
    small, large = simulated(SMALL), simulated(replace(SMALL, pairs=400))
    kept = np.r_[:301, 400:501]  # 301 is odd: the last prompt has one of its two pairs
    more = contents(large)
    for key, value in contents(small).items():
        if key == "margin_NxK":  # products of other sizes may round their last bit in another way
            np.testing.assert_allclose(more[key][kept], value, atol=1e-5)
        elif key != "directions_DxK":
            np.testing.assert_array_equal(more[key][kept], value)
    np.testing.assert_array_equal(small.directions_DxK, large.directions_DxK)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"margin_scale": 1.0}, ("groups", "wishes")),
        ({"noise": 0.3}, ("groups", "wishes")),
        ({"contexts": False}, ("groups", "labels")),
        ({"wording_spread": 0.1}, ("groups", "labels")),
        ({"train_wordings": 2}, ("groups", "labels")),
        ({"sharpness": 1.0}, ()),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_a_knob_changes_what_it_is_about_and_nothing_else(
    change: dict[str, Any], kept: tuple[str, ...]
) -> None:
    before, after = simulated(SMALL), simulated(replace(SMALL, **change))
    same = np.testing.assert_array_equal
    same(vectors(after, "plain/prompt"), vectors(before, "plain/prompt"))
    same(answers(after), answers(before))
    held = {
        "groups": (before.group_N == after.group_N).all(),
        "labels": (first_wins(before) == first_wins(after)).all(),
        "wishes": (vectors(before, "context/prompt") == vectors(after, "context/prompt")).all(),
    }
    assert {name for name, kept_ in held.items() if kept_} >= set(kept)
    assert contents(before).keys() == contents(after).keys()
    assert before.table.request != after.table.request


def test_prompts_and_answers_have_unit_scale() -> None:
    """Mean square of prompts and of answer differences, per coordinate, is 1."""
    simulation = simulated(LARGE)
    delta = vectors(simulation, "plain/chosen") - vectors(simulation, "plain/rejected")
    prompts = vectors(simulation, "plain/prompt")[::2]
    for values in (delta, prompts):
        assert values.dtype == np.float32
        bound = SIGMAS * np.sqrt(2 / len(values))  # variance of a squared normal is 2
        np.testing.assert_allclose(np.mean(values**2, axis=0), 1, atol=bound)


def test_directions_are_orthogonal_or_opposite() -> None:
    np.testing.assert_allclose(
        simulated(SMALL).directions_DxK.T @ simulated(SMALL).directions_DxK, np.eye(3), atol=1e-12
    )
    opposed = simulated(replace(SMALL, directions=4, opposed=True)).directions_DxK
    np.testing.assert_array_equal(opposed[:, 1::2], -opposed[:, 0::2])
    np.testing.assert_allclose(opposed[:, ::2].T @ opposed[:, ::2], np.eye(2), atol=1e-12)


def calibrated(outcome_N: np.ndarray, probability_N: np.ndarray, bins: int = 10) -> bool:
    """Whether outcomes come as often as they should, in every range of the probability."""
    for part in np.array_split(np.argsort(probability_N, kind="stable"), bins):
        surprise = outcome_N[part].sum() - probability_N[part].sum()
        spread = np.sqrt((probability_N[part] * (1 - probability_N[part])).sum())
        if abs(surprise) > SIGMAS * spread + 1e-6:
            return False
    return True


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_labels_follow_the_reward_of_the_group(noise: float) -> None:
    simulation = simulated(replace(LARGE, noise=noise))
    count = np.arange(len(simulation.table))
    observed_N = win_probability(simulation, count)[count, simulation.group_N]
    wins_N = first_wins(simulation)
    first_N = np.where(wins_N, observed_N, 1 - observed_N)
    assert first_N.min() >= noise
    assert first_N.max() <= 1 - noise
    for group in range(3):  # one by one, or the draw of the group could leak into the label
        judged = simulation.group_N == group
        assert calibrated(wins_N[judged], first_N[judged])
    assert calibrated(simulation.flipped_N, np.full(count.size, noise))
    # Of what noise did not touch, and of what it did, the reward alone tells how often.
    clean_N = 1 / (1 + np.exp(-simulation.margin_NxK[count, simulation.group_N]))
    honest_N = np.where(wins_N, clean_N, 1 - clean_N)
    assert calibrated(wins_N ^ simulation.flipped_N, honest_N)
    assert not calibrated(wins_N, 1 - first_N)


def test_the_reward_of_another_group_does_not_explain_labels() -> None:
    simulation = simulated(LARGE)
    count = np.arange(len(simulation.table))
    other_N = win_probability(simulation, count)[count, (simulation.group_N + 1) % 3]
    wins_N = first_wins(simulation)
    assert not calibrated(wins_N, np.where(wins_N, other_N, 1 - other_N))


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 6.0])
def test_the_prompt_decides_the_group_as_sharply_as_asked(sharpness: float) -> None:
    simulation = simulated(replace(LARGE, sharpness=sharpness))
    coordinates = vectors(simulation, "plain/prompt")[:, :3].astype(np.float64)
    odds = np.exp(sharpness * coordinates)
    np.testing.assert_allclose(
        simulation.membership_NxK, odds / odds.sum(axis=1, keepdims=True), atol=1e-12
    )
    for group in range(3):
        is_group_N = simulation.group_N == group
        assert calibrated(is_group_N, simulation.membership_NxK[:, group])
        assert calibrated(is_group_N, np.full(len(is_group_N), 1 / 3), bins=1)
    # Whether the strongest coordinate says more than chance.
    hits = (simulation.group_N == coordinates.argmax(axis=1)).sum()
    chance = len(simulation.table) / 3
    assert (abs(hits - chance) > SIGMAS * np.sqrt(chance * 2 / 3)) == (sharpness > 0)


def test_pairs_of_a_prompt_share_it_and_are_judged_one_by_one() -> None:
    simulation = simulated(replace(SMALL, sharpness=0.0))
    prompts, names = vectors(simulation, "plain/prompt"), simulation.table.text["prompt_id"]
    np.testing.assert_array_equal(prompts[0:300:2], prompts[1:300:2])
    assert names[0:300:2] == names[1:300:2]
    assert len(set(names)) == len(np.unique(prompts, axis=0)) == 151 + 51
    assert (simulation.group_N[0:300:2] != simulation.group_N[1:300:2]).any()


# Wishes


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_unseen_wordings_lie_near_the_code_of_their_own_group(spread: float) -> None:
    config = replace(SMALL, width=64, wording_spread=spread)
    simulation = simulated(config)
    wish = np.asarray(simulation.table.text["context"])
    code = vectors(simulation, "context/prompt")
    train, test = rows_of(simulation, "train"), rows_of(simulation, "test")
    seen, unseen = set(wish[train]), set(wish[test])
    assert (len(seen), len(unseen), len(seen & unseen)) == (12, 12, 0)
    assert all(
        re.fullmatch(rf"wish {group}\.\d", words)
        for words, group in zip(wish, simulation.group_N, strict=True)
    )
    # Without spread every wording is the code itself.
    codes = vectors(simulated(replace(config, wording_spread=0.0)), "context/prompt")
    centre = np.stack([codes[simulation.group_N == group][0] for group in range(3)])
    np.testing.assert_allclose(centre @ centre.T, 64 * np.eye(3), atol=1e-4)
    distance = np.linalg.norm(code[:, None] - centre, axis=2) / 8
    own = distance[np.arange(len(wish)), simulation.group_N]
    np.testing.assert_allclose(own, spread, atol=1e-5)
    assert (distance.argmin(axis=1) == simulation.group_N).all()
    np.testing.assert_array_equal(code[:, :3], 0)  # what the prompt says of the group stays


def test_the_ctx_view_is_the_plain_view_plus_the_wish() -> None:
    simulation = simulated(SMALL)
    code = vectors(simulation, "context/prompt")
    for role in ROLES:
        np.testing.assert_array_equal(
            vectors(simulation, f"ctx/{role}"), vectors(simulation, f"plain/{role}") + code
        )
    features = Features(simulation.store, simulation.table)
    every = np.arange(len(simulation.table))
    ctx, plain = (features.arrays(every, view, view)[0] for view in ("ctx", "plain"))
    np.testing.assert_allclose(ctx, plain, atol=1e-5)


def test_without_contexts_every_view_is_the_plain_one() -> None:
    simulation = simulated(replace(SMALL, contexts=False))
    assert set(simulation.table.text["context"]) == {""}
    assert (
        simulation.table.pool.sum() == SMALL.pairs
    )  # labels are left, and they can be learnt from
    for view in VIEWS:
        np.testing.assert_array_equal(
            vectors(simulation, f"{view}/prompt"), vectors(simulation, "plain/prompt")
        )


# The interface of a store and its table


def test_features_give_back_the_planted_margins() -> None:
    simulation = simulated(SMALL)
    rows = np.array([400, 3, 3, 77])
    delta, prompt = Features(simulation.store, simulation.table).arrays(rows, "ctx", "plain")
    assert delta.shape == prompt.shape == (4, 12)
    assert delta.dtype == prompt.dtype == np.float32
    np.testing.assert_allclose(
        SMALL.margin_scale * delta @ simulation.directions_DxK,
        simulation.margin_NxK[rows],
        atol=1e-4,
    )
    np.testing.assert_array_equal(prompt, vectors(simulation, "plain/prompt", rows))


def test_the_table_survives_the_disk(tmp_path: Path) -> None:
    table = simulated(SMALL).table
    write_pairs(tmp_path, table)
    read = read_pairs(tmp_path, "simulated")
    assert read.text == table.text
    assert (read.request, read.settings, read.account) == (
        table.request,
        table.settings,
        table.account,
    )
    assert {f"{view}/{role}" for view, role in [("context", "prompt")]} <= read.rows.keys()
    for key in read.rows:
        np.testing.assert_array_equal(read.rows[key], table.rows[key])
    np.testing.assert_array_equal(read.pool, rows_mask(table.text["split"], "train"))
    assert np.isnan(read.margin).all()
    assert len(set(table.text["pair_id"])) == len(table) == 402


def rows_mask(split: list[str], name: str) -> np.ndarray:
    return np.asarray(split) == name


def test_partition_takes_prompts_apart() -> None:
    simulation = simulated(LARGE)
    parts = partition(simulation.table, 0.2)
    share = parts.validation.size / LARGE.pairs
    # 10,000 prompts fall to either side independently.
    assert share == pytest.approx(0.2, abs=SIGMAS * np.sqrt(0.2 * 0.8 / 10_000))
    assert parts.train.size + parts.validation.size == LARGE.pairs
    np.testing.assert_array_equal(parts.test, np.arange(LARGE.pairs, LARGE.pairs + 10))
    names = np.asarray(simulation.table.text["prompt_id"])
    groups = [set(names[rows]) for rows in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 10_000 + 5
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in groups[2])


@pytest.mark.parametrize("row", [-1, 10**6])
def test_a_row_that_does_not_exist_is_an_error(row: int) -> None:
    store = simulated(SMALL).store
    assert store.width == 12
    assert len(store.vectors([])) == 0
    assert store.vectors([len(store) - 1]).shape == (1, 12)
    with pytest.raises(StoreError, match=rf"simulator: asked for rows {row}\.\.{row}, it has \d+"):
        store.vectors([row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": 0}, r"data.simulator.directions: expected 1 or more, found 0"),
        ({"directions": 3, "opposed": True}, r"directions: expected an even number"),
        ({"width": 5}, r"data.simulator.width: expected at least twice .*\(6\).*, found 5"),
        ({"pairs": 0}, "data.simulator.pairs: expected 1 or more, found 0"),
        ({"test_pairs": 0}, "data.simulator.test_pairs"),
        ({"pairs_per_prompt": 0}, "data.simulator.pairs_per_prompt"),
        ({"sharpness": -1.0}, "data.simulator.sharpness: expected a finite number, 0 or more"),
        ({"margin_scale": float("inf")}, "data.simulator.margin_scale"),
        ({"wording_spread": float("nan")}, "data.simulator.wording_spread"),
        ({"noise": 0.6}, "data.simulator.noise: expected between 0 and 0.5, found 0.6"),
        ({"train_wordings": 0}, "data.simulator.train_wordings"),
        ({"test_wordings": 0}, "data.simulator.test_wordings"),
        ({"seed": -1}, "data.simulator.seed"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulatorConfig(**change)


# Floors


@pytest.mark.parametrize(
    ("gamma", "sigma", "known", "router"),
    [
        ((0.5, 0.5), (0.9, 0.1), 0.325083, 0.693147),
        ((0.7, 0.3), (0.9, 0.2), 0.377679, 0.619101),
        ((0.2, 0.3, 0.5), (0.9, 0.5, 0.2), 0.523162, 0.683315),
    ],
)
def test_floors_of_worked_examples(
    gamma: tuple[float, ...], sigma: tuple[float, ...], known: float, router: float
) -> None:
    """Section 13.4; the average floor by hand: cross-entropy of the truth and of equal weights."""
    membership, chance = np.array([gamma]), np.array([sigma])
    planted = replace(
        simulated(SMALL), membership_NxK=membership, margin_NxK=np.log(chance / (1 - chance))
    )
    found = floors(planted, np.array([0]))
    truth, equal = float((membership * chance).sum()), float(chance.mean())
    average = -truth * np.log(equal) - (1 - truth) * np.log(1 - equal)
    np.testing.assert_allclose(np.ravel(found), [known, router, average], atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("scale", [0.5, 4.0, 1000.0])
def test_who_knows_more_loses_less(noise: float, scale: float) -> None:
    simulation = simulated(replace(LARGE, noise=noise, margin_scale=scale))
    known, router, average = floors(simulation, np.arange(len(simulation.table)))
    assert known.shape == (20_010,)
    assert (known <= router + 1e-9).all()
    assert (router <= average + 1e-9).all()
    assert (known >= -1e-9).all()
    assert np.isfinite(average).all()
    error = average.std() / np.sqrt(average.size / 2)  # two rows per prompt
    assert average.mean() <= np.log(2) + SIGMAS * error + 1e-9
    if noise == 0.5:
        np.testing.assert_allclose([known, router, average], np.log(2), atol=1e-9)
    else:
        assert known.mean() < router.mean() - 1e-3 < average.mean() - 2e-3


def test_a_router_without_a_clue_is_the_average() -> None:
    simulation = simulated(replace(LARGE, sharpness=0.0))
    _, router, average = floors(simulation, np.arange(len(simulation.table)))
    np.testing.assert_allclose(router, average, atol=1e-12)


def test_rewards_without_scale_leave_log_2() -> None:
    """G-S17."""
    simulation = simulated(replace(LARGE, margin_scale=0.0))
    np.testing.assert_allclose(floors(simulation, np.arange(50)), np.log(2), atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_floors_are_the_losses_of_those_who_know(noise: float) -> None:
    """On drawn labels the loss of each of the three scatters around its floor."""
    simulation = simulated(replace(LARGE, noise=noise))
    rows = np.arange(len(simulation.table))
    win_NxK, gamma_NxK = win_probability(simulation, rows), simulation.membership_NxK
    predictions = (
        win_NxK[rows, simulation.group_N],
        (gamma_NxK * win_NxK).sum(axis=1),
        win_NxK.mean(axis=1),
    )
    for prediction_N, floor_N in zip(predictions, floors(simulation, rows), strict=True):
        surprise_N = -np.log(prediction_N) - floor_N
        assert abs(surprise_N.mean()) < SIGMAS * surprise_N.std() / np.sqrt(rows.size)


# What training finds

CONFIG = SimulatorConfig()
OPPOSED = replace(CONFIG, directions=2, opposed=True)


class Fitted(NamedTuple):
    """Kernel (D, K) of a trained model, and its loss and decisions per test row."""

    kernel_DxK: np.ndarray
    nll_N: np.ndarray
    right_N: np.ndarray


def train(
    config: SimulatorConfig, heads: int, router: Any, view: str = "plain", seed: int = 0
) -> Fitted:
    """A mixture trained as in stage 1; the router reads the prompt in the given view."""
    simulation = simulated(config)
    features = Features(simulation.store, simulation.table)
    learned, tested = (
        Rows(*map(jnp.asarray, features.arrays(rows_of(simulation, split), "plain", view)))
        for split in ("train", "test")
    )
    settings = TrainConfig(
        num_heads=heads,
        entropy_weight=0.05,
        learning_rate=1e-2,
        epochs=20,
        select="last",
        router="linear",
    )
    spec = ModelSpec(config.width, heads, router)
    start = init(spec, jax.random.key(seed))
    params, _ = fit(spec, start, learned, tested, settings, jax.random.key(seed))
    delta_NxK = margins(params["heads"], tested.delta_NxD)
    log_weights_NxK = log_weights(spec, params["router"], tested.router_input_NxD)
    nll_N = np.asarray(mixture_nll(delta_NxK, log_weights_NxK))
    return Fitted(np.asarray(params["heads"]["kernel"]), nll_N, nll_N < np.log(2))


train_once = cache(train)


@pytest.mark.long
def test_a_mixture_finds_the_planted_directions() -> None:
    """G-S16, and no further from the perfect router than the entropy term explains."""
    simulation = simulated(CONFIG)
    found = train_once(CONFIG, 3, "linear")
    assert recovery(found.kernel_DxK, simulation.directions_DxK).min() > 0.95
    router_N = floors(simulation, rows_of(simulation, "test")).perfect_router_N
    excess_N = found.nll_N - router_N
    error = excess_N.std() / np.sqrt(excess_N.size)
    assert -SIGMAS * error < excess_N.mean() < 0.03 + SIGMAS * error


@pytest.mark.long
def test_a_static_mixture_does_worse_beyond_noise() -> None:
    """G-S16: on the same rows, and it stays above the floor of everything without a prompt."""
    simulation = simulated(CONFIG)
    static = train_once(CONFIG, 3, "static")
    worse_N = static.nll_N - train_once(CONFIG, 3, "linear").nll_N
    assert worse_N.mean() > 0.1 + SIGMAS * worse_N.std() / np.sqrt(worse_N.size)
    excess_N = static.nll_N - floors(simulation, rows_of(simulation, "test")).average_N
    error = excess_N.std() / np.sqrt(excess_N.size)
    assert -SIGMAS * error < excess_N.mean() < 0.03 + SIGMAS * error


def best_linear(delta_NxD: np.ndarray) -> np.ndarray:
    """The reward of least Bradley-Terry loss, by Newton steps down to a gradient of zero."""
    weight_D = np.zeros(delta_NxD.shape[1])
    for _ in range(20):
        lose_N = 1 / (1 + np.exp(delta_NxD @ weight_D))
        gradient_D = -(delta_NxD.T @ lose_N)
        curvature_N = lose_N * (1 - lose_N)
        hessian_DxD = (delta_NxD.T * curvature_N) @ delta_NxD
        weight_D = weight_D - np.linalg.solve(hessian_DxD, gradient_D)
    assert np.abs(gradient_D).max() < 1e-8
    return weight_D


@pytest.mark.long
def test_a_single_reward_ends_at_the_best_that_a_line_can_do() -> None:
    """It is the mean of all tastes: alike to each, with cosine 1/sqrt(3) but for estimation."""
    simulation = simulated(CONFIG)
    found = train_once(CONFIG, 1, "linear")
    features = Features(simulation.store, simulation.table)
    learned, tested = (
        features.arrays(rows_of(simulation, split), "plain", "plain")[0].astype(np.float64)
        for split in ("train", "test")
    )
    best_N = np.log1p(np.exp(-tested @ best_linear(learned)))
    assert found.nll_N.mean() == pytest.approx(best_N.mean(), abs=2e-3)
    average_N = floors(simulation, rows_of(simulation, "test")).average_N
    excess_N = best_N - average_N
    assert excess_N.mean() > -SIGMAS * excess_N.std() / np.sqrt(excess_N.size)
    cosines = found.kernel_DxK[:, 0] @ simulation.directions_DxK
    cosines /= np.linalg.norm(found.kernel_DxK)
    np.testing.assert_allclose(cosines, 3**-0.5, atol=0.1)


@pytest.mark.long
def test_opposed_tastes_are_found_and_a_single_reward_is_left_with_a_coin() -> None:
    simulation = simulated(OPPOSED)
    mixture, single = train_once(OPPOSED, 2, "linear"), train_once(OPPOSED, 1, "linear")
    assert recovery(mixture.kernel_DxK, simulation.directions_DxK).min() > 0.95
    assert mixture.nll_N.mean() < 0.5
    assert single.nll_N.mean() == pytest.approx(np.log(2), abs=0.01)
    noise = SIGMAS * 0.5 / np.sqrt(single.right_N.size)
    assert single.right_N.mean() == pytest.approx(0.5, abs=noise)


@pytest.mark.long
def test_wishes_decide_where_the_prompt_says_nothing() -> None:
    """G-H13: two opposed tastes and prompts without a clue. A router of plain prompts guesses;
    one that reads the wish, in wordings it never saw, is right wherever the reward is clear."""
    config = replace(OPPOSED, sharpness=0.0, margin_scale=100.0)
    blind = train_once(config, 2, "linear")
    told = train_once(config, 2, "linear", "ctx")
    noise = SIGMAS * 0.5 / np.sqrt(blind.right_N.size)
    assert blind.right_N.mean() == pytest.approx(0.5, abs=noise)
    assert told.right_N.mean() > 0.95
    assert recovery(told.kernel_DxK, simulated(config).directions_DxK).min() > 0.95
