"""Members of a sweep, and which of them are fitted together."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, EvaluateConfig, RunConfig
from micro_rm.configs.sweep import SweepConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.sweeps.plan import (
    Member,
    describe,
    largest_heads,
    make_member,
    make_members,
    together,
)

WIDTH, GROUPS = 16, 2


def members(*points: dict[str, Any], base: Config | None = None) -> list[Member]:
    return [make_member(base or Config(), number, point) for number, point in enumerate(points)]


def numbers(groups: list[list[Member]]) -> list[list[int]]:
    return [[member.number for member in group] for group in groups]


def test_members_are_numbered_settings_and_the_configuration_with_them() -> None:
    config = Config(
        train=TrainConfig(epochs=2),
        sweep=SweepConfig(grid={"train.num_heads": [2, 4], "run.seed": [7]}),
    )
    found = make_members(config)
    assert [member.number for member in found] == [0, 1]
    assert [m.config.train.num_heads for m in found] == [2, 4] and largest_heads(found) == 4
    assert all(m.config.run.seed == 7 and m.config.train.epochs == 2 for m in found)
    assert found[0].settings == {"train.num_heads": 2, "run.seed": 7}
    with pytest.raises(ConfigError, match=r"train\.num_heads: expected 1 or more"):
        make_members(Config(sweep=SweepConfig(grid={"train.num_heads": [2, 0]})))


def test_a_label_is_the_settings_whatever_their_order() -> None:
    one, same, other = members(
        {"run.seed": 1, "adapt.tau": 0.5},
        {"adapt.tau": 0.5, "run.seed": 1},
        {"adapt.tau": 0.5, "run.seed": 2},
    )
    assert one.label == same.label != other.label


def test_scalars_heads_and_seeds_are_one_program() -> None:
    points: list[dict[str, Any]] = [
        {},
        {"run.seed": 3},
        {"train.num_heads": 2},
        {"train.learning_rate": 0.1},
        {"train.entropy_weight": 0.1},
        {"train.weight_decay": 0.1},
        {"train.clip": 0.1},
        {"adapt.tau": 0.1},
        {"adapt.learning_rate": 0.1},
        {"adapt.weight_decay": 0.1},
    ]
    found = together(members(*points), WIDTH, GROUPS, None)
    assert [len(group) for group in found] == [len(points)]


@pytest.mark.parametrize(
    "point",
    [
        {"train.epochs": 9},
        {"train.shuffle_seed": 1},
        {"adapt.epochs": 9},
        {"views.adapt_head": "plain"},
        {"baselines.hyre.rows": 3},
    ],
)
def test_what_has_another_shape_or_other_rows_is_another_program(point: dict[str, Any]) -> None:
    found = together(members({}, point, {"run.seed": 1}), WIDTH, GROUPS, None)
    assert numbers(found) == [[0, 2], [1]]


def test_members_of_one_stage_1_stand_side_by_side() -> None:
    found = together(
        members(
            {"train.num_heads": 2, "adapt.tau": 0.1},
            {"train.num_heads": 3, "adapt.tau": 0.1},
            {"train.num_heads": 2, "adapt.tau": 0.2},
            {"train.num_heads": 3, "adapt.tau": 0.2},
            {"train.num_heads": 2, "adapt.tau": 0.2, "run.seed": 1},
        ),
        WIDTH,
        GROUPS,
        None,
    )
    assert numbers(found) == [[0, 2, 1, 3, 4]]


@pytest.mark.parametrize(
    ("point", "same"),
    [
        ({"adapt.tau": 0.1}, True),
        ({"views.adapt_head": "plain"}, True),
        ({"views.train_head": "ctx"}, False),
        ({"views.train_router": "ctx"}, False),
        ({"run.seed": 3}, False),
        ({"train.clip": 0.5}, False),
        ({"baselines.hyre.rows": 3}, False),
    ],
)
def test_what_stage_1_depends_on(point: dict[str, Any], same: bool) -> None:
    one, other = members({}, point)
    assert (one.stage1 == other.stage1) is same


def test_groups_fit_into_memory_and_are_of_equal_size() -> None:
    found = members(*({"run.seed": seed} for seed in range(7)))
    each = found[0].bytes(WIDTH, GROUPS, largest_heads(found))
    for room, sizes in ((7.0, [7]), (6.9, [4, 3]), (3.0, [3, 3, 1]), (2.5, [2, 2, 2, 1])):
        groups = together(found, WIDTH, GROUPS, room * each)
        assert [len(group) for group in groups] == sizes, room
        assert [n for group in numbers(groups) for n in group] == list(range(7))
    assert [len(group) for group in together(found, WIDTH, GROUPS, 0.5 * each)] == [1] * 7


def test_every_member_is_counted_with_room_for_the_largest() -> None:
    small, large = members({"train.num_heads": 2}, {"train.num_heads": 40})
    assert largest_heads([small, large]) == 40
    alone, padded = (small.bytes(WIDTH, GROUPS, room) for room in (2, 40))
    assert alone < padded == large.bytes(WIDTH, GROUPS, 40)
    assert numbers(together([small, large], WIDTH, GROUPS, alone + padded)) == [[0], [1]]
    assert numbers(together([small, large], WIDTH, GROUPS, 2 * padded)) == [[0, 1]]


def test_the_memory_of_a_member() -> None:
    """By hand. Heads 16 x 3, linear router the same; 2 draws of 2 x 5 labelled rows."""
    base = Config(
        train=TrainConfig(num_heads=3, router="linear"), adapt=AdaptConfig(budget=5, draws=2)
    )
    (member,) = members({}, base=base)
    stage1 = 7 * (48 + 48)
    stage2 = 2 * (5 * 48 + 2 * (2 * 2 * 5 * 16))
    assert member.bytes(16, 2, 3) == 4 * (stage1 + stage2)


def test_results_depend_on_everything_that_is_not_swept() -> None:
    same = describe(Config())
    for base in (
        Config(train=TrainConfig(clip=3.0)),
        Config(adapt=AdaptConfig(tau=3.0)),
        Config(sweep=SweepConfig(methods=["micro_stage1"])),
        Config(run=RunConfig(seed=3)),
        Config(evaluate=EvaluateConfig(confidence=0.5)),
    ):
        assert describe(base) != same
