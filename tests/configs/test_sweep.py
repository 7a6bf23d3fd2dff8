"""What a sweep varies: members, refused settings, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.command_line import parse
from micro_rm.configs.schema import Config
from micro_rm.configs.sweep import SweepConfig, with_settings

# --- members --------------------------------------------------------------------------------------


def test_members_are_every_point_of_the_grid_the_last_key_fastest() -> None:
    sweep = SweepConfig(grid={"train.num_heads": [2, 5], "run.seed": [0, 1]})
    assert sweep.members() == [
        {"train.num_heads": 2, "run.seed": 0},
        {"train.num_heads": 2, "run.seed": 1},
        {"train.num_heads": 5, "run.seed": 0},
        {"train.num_heads": 5, "run.seed": 1},
    ]


def test_the_grid_is_run_through_for_every_point() -> None:
    points = [{"train.epochs": 5, "train.clip": 2.0}, {"train.epochs": 9}]
    sweep = SweepConfig(grid={"run.seed": [3, 1]}, points=points)
    assert sweep.members() == [
        {"train.epochs": 5, "train.clip": 2.0, "run.seed": 3},
        {"train.epochs": 5, "train.clip": 2.0, "run.seed": 1},
        {"train.epochs": 9, "run.seed": 3},
        {"train.epochs": 9, "run.seed": 1},
    ]


def test_points_alone_are_members_and_nothing_to_vary_is_one_member() -> None:
    points = [{"adapt.tau": 0.5}, {"adapt.budget": 3}]
    assert SweepConfig(points=points).members() == points
    assert SweepConfig().members() == [{}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": {"run.seed": [0, 1, 0]}}, r"sweep\.grid run\.seed: expected .* no two equal"),
        ({"grid": {"run.seed": []}}, r"sweep\.grid run\.seed: expected one or more"),
        (
            {"grid": {"run.seed": [0]}, "points": [{"train.epochs": 2}, {"run.seed": 1}]},
            r"sweep\.grid run\.seed: expected a key that no entry of points sets",
        ),
        ({"methods": []}, r"sweep\.methods: expected one or more"),
        ({"memory_gib": 0.0}, r"sweep\.memory_gib: expected above 0"),
        ({"grid": {"backbone.name": ["a"]}}, r"expected keys of train, adapt, views, baselines, "),
        ({"points": [{"store.dir": "x"}]}, r"run\.seed; .*found 'store\.dir'"),
        ({"grid": {"run.dir": ["x"]}}, r"found 'run\.dir'"),
        ({"grid": {"trains.epochs": [1]}}, r"found 'trains\.epochs'"),
    ],
)
def test_an_impossible_sweep_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SweepConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"points": [{"train.epochs": 1, "train.clip": 2}, {"train.clip": 2, "train.epochs": 1}]},
        {"grid": {"train.clip": [1, 1.0]}},
    ],
)
def test_equal_members_are_refused_however_they_are_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"sweep\..*: expected .*no two equal"):
        SweepConfig(**fields).members()


# --- settings -------------------------------------------------------------------------------------


def test_settings_are_set_at_any_depth_and_nothing_else_changes() -> None:
    base = Config()
    changed = with_settings(base, {"train.epochs": 7, "adapt.kernel.tau": 0.5, "run.seed": 4})
    assert (changed.train.epochs, changed.adapt.kernel.tau, changed.run.seed) == (7, 0.5, 4)
    back = {"train.epochs": 3, "adapt.kernel.tau": base.adapt.kernel.tau, "run.seed": 0}
    assert with_settings(changed, back) == base == Config()


def test_a_whole_number_is_a_float_where_one_is_expected() -> None:
    config = with_settings(Config(), {"train.memory_gib": 3, "adapt.kernel.ridge": 2})
    for found, value in ((config.train.memory_gib, 3), (config.adapt.kernel.ridge, 2)):
        assert found == value and type(found) is float


@pytest.mark.parametrize("key", ["train.patience", "train.memory_gib"])
def test_an_optional_setting_can_be_none(key: str) -> None:
    some = with_settings(Config(), {key: 3})
    assert getattr(some.train, key.split(".")[1]) == 3
    assert with_settings(some, {key: None}) == Config()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.num_heads", 2.0, r"sweep train\.num_heads: expected int, found 2\.0"),
        ("train.num_heads", True, "expected int, found True"),
        ("train.learning_rate", True, "expected float, found True"),
        ("train.patience", 1.5, "expected int or NoneType, found 1.5"),
        ("train.router", "rnn", "expected 'mlp' or 'linear', found 'rnn'"),
        ("train.router", ["mlp"], r"found \['mlp'\]"),
        ("train", {"epochs": 2}, "sweep train: expected TrainConfig"),
        ("train.epoch", 2, r"unknown key 'train\.epoch'; train has num_heads, .*epochs"),
        ("adapt.kernel.taus", 2, r"adapt\.kernel has targets, tau, ridge"),
        ("train.epochs.more", 2, r"train\.epochs has no keys"),
        ("train.epochs", 0, r"train\.epochs: expected 1 or more, found 0"),
        ("train.learning_rate", float("nan"), r"learning_rate: expected"),
        ("train.learning_rate", float("inf"), "learning_rate"),
        ("adapt.tau", float("inf"), "tau"),
        ("train.entropy_weight", float("inf"), "entropy_weight"),
        ("run.seed", -1, r"run\.seed: expected 0 or more"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(
    key: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(Config(), {key: value})


def test_the_order_of_the_keys_of_a_point_does_not_matter() -> None:
    """A budget above the default pool, with a pool that has room for it."""
    settings = {"adapt.pool": 400, "adapt.budget": 300}
    adapt = with_settings(Config(), settings).adapt
    assert (adapt.pool, adapt.budget) == (400, 300)
    assert with_settings(Config(), dict(reversed(settings.items()))).adapt == adapt


# --- YAML and flags -------------------------------------------------------------------------------


def test_a_grid_on_the_command_line() -> None:
    grid = "{train.learning_rate: [1e-3, 1.0e-3, 2], train.router: [mlp, linear]}"
    with pytest.raises(ConfigError, match="no two equal"):  # 1e-3 is a number, and so the same
        parse(["sweep", f"--sweep.grid={grid}"])
    grid = "{train.learning_rate: [1e-3, 2.0e-3, 3], train.patience: [null, 2], run.seed: [0]}"
    _, config = parse(["sweep", f"--sweep.grid={grid}"])
    assert config.sweep.grid == {
        "train.learning_rate": [0.001, 0.002, 3],
        "train.patience": [None, 2],
        "run.seed": [0],
    }
    assert len(config.sweep.members()) == 6
    assert parse(["sweep", f"--sweep.grid={json.dumps(config.sweep.grid)}"])[1] == config
    with pytest.raises(ConfigError, match="sweep"):
        parse(["sweep", "--sweep.grid={run.seed: 3}"])
    rates = {with_settings(config, m).train.learning_rate for m in config.sweep.members()}
    assert rates == {0.001, 0.002, 3.0}


def test_a_grid_and_points_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "train:\n  epochs: 2\n"
        "sweep:\n  grid:\n    adapt.tau: [1e-4, 1.0e-3]\n    adapt.kernel.tau: [0.1]\n"
        "  points:\n    - {train.clip: 1e+1, train.select: last}\n    - {train.num_heads: 4}\n"
        "  methods: [micro]\n  memory_gib: 1e-1\n",
        "utf-8",
    )
    _, config = parse(["sweep", "--config", str(path)])
    sweep = config.sweep
    assert sweep.grid == {"adapt.tau": [1e-4, 1e-3], "adapt.kernel.tau": [0.1]}
    assert sweep.points == [{"train.clip": 10.0, "train.select": "last"}, {"train.num_heads": 4}]
    assert (sweep.methods, sweep.memory_gib) == (["micro"], 0.1)
    first = with_settings(config, sweep.members()[0])
    assert (first.train.clip, first.train.select, first.train.epochs) == (10.0, "last", 2)
    _, flagged = parse(["sweep", "--config", str(path), "--sweep.points=[]"])
    assert flagged.sweep.points == [] and flagged.sweep.grid == sweep.grid
