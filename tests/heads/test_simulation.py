"""The simulator: what it draws, and how a store and its table give it back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.pairs import ROLES, VIEWS, read_pairs, write_pairs
from micro_rm.cache.schema import StoreError
from micro_rm.common.errors import ConfigError
from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.heads.features import Features
from micro_rm.heads.simulation import Simulation, simulate, win_probability
from micro_rm.tests.heads.simulated import LARGE, SIGMAS, SMALL, rows_of, simulated, vectors


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
        ({"margin_scale": 1.0, "noise": 0.3}, ("groups", "wishes")),
        ({"wording_spread": 0.1, "train_wordings": 2}, ("groups", "labels")),
        ({"sharpness": 1.0}, ()),
    ],
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
    free = simulated(SMALL).directions_DxK
    np.testing.assert_allclose(free.T @ free, np.eye(3), atol=1e-12)
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


def test_labels_follow_the_reward_of_the_group_behind_noise() -> None:
    noise = 0.25
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


@pytest.mark.parametrize("sharpness", [0.0, 1.0])
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


def test_unseen_wordings_lie_near_the_code_of_their_own_group() -> None:
    config = replace(SMALL, width=64)
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
    np.testing.assert_allclose(own, config.wording_spread, atol=1e-5)
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
    assert simulation.table.pool.sum() == SMALL.pairs, "labels are left to learn from"
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
    margin_nxK = SMALL.margin_scale * delta @ simulation.directions_DxK
    np.testing.assert_allclose(margin_nxK, simulation.margin_NxK[rows], atol=1e-4)
    np.testing.assert_array_equal(prompt, vectors(simulation, "plain/prompt", rows))


def test_the_table_survives_the_disk(tmp_path: Path) -> None:
    table = simulated(SMALL).table
    write_pairs(tmp_path, table)
    read = read_pairs(tmp_path, "simulated")
    assert read.text == table.text
    for name in ("request", "settings", "account"):
        assert getattr(read, name) == getattr(table, name)
    assert "context/prompt" in read.rows
    for key in read.rows:
        np.testing.assert_array_equal(read.rows[key], table.rows[key])
    assert read.pool.tolist() == [split == "train" for split in table.text["split"]]
    assert np.isnan(read.margin).all()
    assert len(set(table.text["pair_id"])) == len(table) == 402


@pytest.mark.parametrize("row", [-1, 10**6])
def test_a_row_that_does_not_exist_is_an_error(row: int) -> None:
    store = simulated(SMALL).store
    assert store.width == 12
    assert len(store.vectors([])) == 0
    assert store.vectors([0, len(store) - 1]).shape == (2, 12)
    with pytest.raises(StoreError, match=rf"simulator: asked for rows {row}\.\.{row}, it has \d+"):
        store.vectors([row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": 0}, r"data.simulator.directions: expected 1 or more, found 0"),
        ({"directions": 3, "opposed": True}, r"directions: expected an even number"),
        ({"width": 5}, r"data.simulator.width: expected at least twice .*\(6\).*, found 5"),
        ({"sharpness": -1.0}, "data.simulator.sharpness: expected a finite number, 0 or more"),
        ({"margin_scale": float("inf")}, "data.simulator.margin_scale"),
        ({"noise": 0.6}, "data.simulator.noise: expected between 0 and 0.5, found 0.6"),
        ({"train_wordings": 0}, "data.simulator.train_wordings"),
        ({"seed": -1}, "data.simulator.seed"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulatorConfig(**change)
