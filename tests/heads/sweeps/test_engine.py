"""Members fitted and scored in groups: the numbers of solo runs, on the tiny store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from micro_rm.common.errors import UserError
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import EvaluateConfig, ViewsConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.evaluation.protocol import TestSet as ScoredRows
from micro_rm.heads.evaluation.protocol import make_test_set
from micro_rm.heads.evaluation.report import build_report
from micro_rm.heads.fitting import fit_methods, score_models
from micro_rm.heads.methods import choose_methods, load_method
from micro_rm.heads.methods.mixture import DivergenceError
from micro_rm.heads.run_data import RunData
from micro_rm.heads.sweeps import engine
from micro_rm.heads.sweeps.engine import held_out_pool, validation_rows
from micro_rm.heads.sweeps.plan import Member, make_member

TRAIN = TrainConfig(
    num_heads=3,
    learning_rate=0.02,
    batch_size=16,
    epochs=2,
    validation_fraction=0.3,
    router="linear",
)
ADAPT = AdaptConfig(budget=6, pool=32, draws=2, epochs=3, batch_size=8, learning_rate=0.02, tau=0.1)
METHODS = ["micro_stage1", "micro", "micro_kernel"]
POINTS: list[dict[str, Any]] = [
    {"train.num_heads": 2, "adapt.tau": 0.1},
    {"train.num_heads": 3, "adapt.tau": 0.1},
    {"train.num_heads": 3, "adapt.tau": 2.0},
    {"train.num_heads": 3, "adapt.tau": 0.1, "run.seed": 4},
    {"train.num_heads": 3, "adapt.tau": 0.1, "train.learning_rate": 1e38, "train.clip": 1e30},
]


# Numbers or an error, which every test knows beforehand.
run_members: Callable[..., Any] = engine.run_members


@pytest.fixture(scope="module")
def run_data(make_run_data: Callable[..., RunData]) -> RunData:
    return make_run_data(train=TRAIN, adapt=ADAPT)


@pytest.fixture(scope="module")
def test_set(run_data: RunData) -> ScoredRows:
    return make_test_set(run_data.features.table, run_data.parts.test)


def members(run_data: RunData, points: list[dict[str, Any]]) -> list[Member]:
    return [make_member(run_data.config, number, point) for number, point in enumerate(points)]


@pytest.fixture(scope="module")
def done(run_data: RunData, test_set: ScoredRows) -> dict[int, Any]:
    """Numbers by member."""
    groups = list(run_members(run_data, members(run_data, POINTS), METHODS, test_set))
    assert [[member.number for member in group] for group, _ in groups] == [[0, 1, 2, 3, 4]]
    return {m.number: r for group, found in groups for m, r in zip(group, found, strict=True)}


def solo(run_data: RunData, test: ScoredRows, methods: list[str]) -> dict[str, Any]:
    """What ``train``, ``adapt`` and ``evaluate`` find."""
    chosen = choose_methods(methods)
    models: dict[str, Any] = {}
    for stage in ("train", "adapt"):
        problems = [run_data.problem(adapt=stage == "adapt")]
        fitted, _ = fit_methods([one for one in chosen if one.stage == stage], problems, models)
        models |= fitted
    scored = score_models(run_data, models, test)
    given = dict.fromkeys(scored, "prompt")
    report = build_report("tiny", test, scored, given, EvaluateConfig())
    rows_N = run_data.parts.validation
    stage1 = load_method("micro_stage1").predict(models["micro_stage1"][0], run_data.stage1(rows_N))
    return report["methods"] | {"validation": float(-stage1.log_prob_SxN.mean())}


def test_numbers_are_those_of_a_run_of_its_own(
    run_data: RunData, test_set: ScoredRows, done: dict[int, Any]
) -> None:
    member = members(run_data, POINTS)[0]
    alone = RunData(member.config, run_data.features)  # nothing shared
    expected = solo(alone, test_set, METHODS)
    found = done[0]
    best = ["micro_stage1_best_head_validated", "micro_stage1_best_head_oracle"]
    assert list(found) == [*METHODS, *best]
    for name, numbers in found.items():
        entry = expected[name]
        assert numbers["accuracy"] == pytest.approx(entry["macro"]["accuracy"], abs=1e-9)
        assert numbers["nll"] == pytest.approx(entry["nll"], abs=1e-5)
        assert numbers["ece"] == pytest.approx(entry["ece"], abs=1e-4)
        cells = {name: cell["accuracy"] for name, cell in entry["attributes"].items()}
        assert numbers["attributes"] == pytest.approx(cells)
    loss = found["micro_stage1"]["validation_nll"]
    assert loss == pytest.approx(expected["validation"], abs=1e-5)
    assert "validation_nll" not in found[best[0]]


def test_settings_change_what_they_are_about_and_no_more(done: dict[int, Any]) -> None:
    """Another temperature is another stage 2 of the same stage 1."""
    one, hot, seed = done[1], done[2], done[3]
    assert one["micro_stage1"] == hot["micro_stage1"]
    assert one["micro_kernel"] == hot["micro_kernel"]
    assert one["micro"]["nll"] != hot["micro"]["nll"]
    assert one["micro_stage1"]["nll"] != seed["micro_stage1"]["nll"]
    assert one["micro_stage1"]["nll"] != done[0]["micro_stage1"]["nll"]


def test_a_member_that_diverges_is_an_error_among_numbers(done: dict[int, Any]) -> None:
    assert isinstance(done[4], DivergenceError)
    assert all(isinstance(done[number], dict) for number in range(4))


@pytest.mark.long
def test_groups_that_memory_cuts_give_the_same_numbers(
    run_data: RunData, test_set: ScoredRows, done: dict[int, Any]
) -> None:
    """One after the other; each is yielded with its numbers before the next one is fitted."""
    several = members(run_data, POINTS[:2])
    groups = run_members(
        run_data.member(run_data.config), several, METHODS[:2], test_set, memory=1.0
    )
    for number, (group, (found,)) in enumerate(groups):
        assert [member.number for member in group] == [number]
        for name in METHODS[:2]:
            for key in ("accuracy", "nll", "validation_nll"):
                assert found[name][key] == pytest.approx(done[number][name][key], abs=1e-5)


def test_stage_1_is_fitted_once_for_members_that_share_it(
    run_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[int]] = {}

    def fake(method: Any, benches: Any, before: Any, room: int) -> list[Any]:
        asked.setdefault(method.name, []).append(len(benches))
        assert room == 9 and all(len(one) == len(asked) - 1 for one in before)
        return [f"{method.name} {place}" for place in range(len(benches))]

    monkeypatch.setattr(engine, "_fit", fake)
    chosen = choose_methods(["single_bt", "micro"])
    found: Any = engine.fit_members_of([run_data] * 4, ["a", "b", "a", "b"], chosen, 9)
    assert asked == {"single_bt": [2], "micro_stage1": [2], "micro": [4]}
    assert [one["micro_stage1"] for one in found] == [
        f"micro_stage1 {place}" for place in (0, 1, 0, 1)
    ]
    assert [one["micro"] for one in found] == [f"micro {place}" for place in range(4)]


def test_who_has_failed_is_fitted_no_further(
    run_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}

    def fake(method: Any, benches: Any, _before: Any, _room: int) -> list[Any]:
        asked[method.name] = len(benches)
        fails = method.name == "micro_stage1"
        return [UserError("no") if fails and not n else "fine" for n in range(len(benches))]

    monkeypatch.setattr(engine, "_fit", fake)
    chosen = choose_methods(["micro"])
    found: Any = engine.fit_members_of([run_data] * 3, ["a", "b", "a"], chosen, 0)
    assert asked == {"micro_stage1": 2, "micro": 1}
    assert [isinstance(one, UserError) for one in found] == [True, False, True]


def test_a_method_without_fit_many_fails_member_by_member(
    run_data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fit(_problem: Any, _done: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise UserError("not this one")
        return "fine"

    method: Any = replace(load_method("single_bt_exact"), fit=fit)
    assert method.fit_many is None
    found: Any = engine.fit_members_of([run_data] * 3, ["a", "b", "c"], [method], 0)
    assert [str(one) for one in found][1] == "not this one"
    assert [one == {method.name: "fine"} for one in found] == [True, False, True]


@pytest.mark.parametrize(("source", "budget"), [("train", 31), ("test", 20)])
def test_a_budget_that_leaves_no_rows_is_an_error_in_the_members_place(
    run_data: RunData, test_set: ScoredRows, source: Any, budget: int
) -> None:
    """More than the pool holds, or every row that would be tested."""
    base = run_data.member(replace(run_data.config, adapt=replace(ADAPT, source=source)))
    points = [{"adapt.budget": budget}, {"adapt.budget": 6}]
    found = [
        result
        for _, results in run_members(base, members(base, points), ["micro_kernel"], test_set)
        for result in results
    ]
    assert isinstance(found[0], UserError) and isinstance(found[1], dict)


# --- validation rows ------------------------------------------------------------------------------


def test_a_method_that_adapts_is_judged_by_pool_rows_of_held_out_prompts(
    tiny: Any, run_data: RunData
) -> None:
    held_out = set(run_data.parts.validation.tolist())
    pool = set(np.flatnonzero(tiny.table.pool).tolist())
    assert held_out - pool and held_out & pool, "the fixture must tell them apart"
    assert set(np.flatnonzero(held_out_pool(run_data)).tolist()) == held_out & pool
    adapts, plain = load_method("micro"), load_method("micro_stage1")
    np.testing.assert_array_equal(validation_rows(run_data, plain), run_data.parts.validation)
    assert validation_rows(run_data, adapts).tolist() == sorted(held_out & pool)
    assert run_data.draws is not None
    assert not held_out & set(run_data.draws.rows_SxB.ravel().tolist())


def test_rows_without_a_group_or_a_wish_judge_no_method_that_adapts(
    tiny: Any, make_run_data: Callable[..., RunData]
) -> None:
    context = list(tiny.table.text["context"])
    user = list(tiny.table.text["user"])
    bare = make_run_data(train=TRAIN, adapt=replace(ADAPT, group="user"))
    rows = validation_rows(bare, load_method("micro"))
    context[rows[0]], user[rows[1]] = "", ""
    text = {"text": {"context": context, "user": user}}
    run_data = make_run_data(text, train=TRAIN, adapt=replace(ADAPT, group="user"))
    found = validation_rows(run_data, load_method("micro"))
    assert found.tolist() == rows[2:].tolist()


@pytest.mark.parametrize("change", ["source", "fraction"])
def test_without_validation_rows_there_are_no_validation_numbers(
    run_data: RunData, test_set: ScoredRows, change: str
) -> None:
    """Labelled rows of the test split have no held-out counterpart."""
    config = run_data.config
    if change == "source":
        config = replace(config, adapt=replace(ADAPT, source="test"))
    else:
        config = replace(config, train=replace(TRAIN, validation_fraction=0.0))
    other = run_data.member(config)
    assert not validation_rows(other, load_method("micro")).size
    ((_, (found,)),) = run_members(other, members(other, [{}]), ["micro_kernel"], test_set)
    assert "validation_nll" not in found["micro_kernel"]
    assert ("validation_nll" in found["micro_stage1"]) is (change == "source")


# --- what members share ---------------------------------------------------------------------------


def test_members_with_the_same_data_share_them(run_data: RunData) -> None:
    """Object by object: that is how stage 1 knows that it is one program."""
    changed = replace(
        run_data.config,
        train=replace(TRAIN, num_heads=9, learning_rate=1.0, epochs=8),
        adapt=replace(ADAPT, tau=3.0, epochs=9),
    )
    one, other = (
        b.member(c).problem(adapt=True)
        for b, c in ((run_data, run_data.config), (run_data, changed))
    )
    assert one.train is other.train and one.validation is other.validation
    assert one.budget is other.budget
    assert other.train_config.num_heads == 9 and other.adapt_config.tau == 3.0
    seeded = run_data.member(replace(run_data.config, run=replace(run_data.config.run, seed=8)))
    again = seeded.problem(adapt=True)
    assert again.train is one.train and again.budget is not one.budget


@pytest.mark.parametrize(
    ("section", "value", "same_train"),
    [
        ("views", ViewsConfig(adapt_head="plain", adapt_router="ctx"), True),
        ("views", ViewsConfig(adapt_head="ctx", adapt_router="context"), True),
        ("adapt", replace(ADAPT, budget=7), True),
        ("adapt", replace(ADAPT, draws=3), True),
        ("adapt", replace(ADAPT, source="test"), True),
        ("adapt", replace(ADAPT, group="user"), False),
        ("train", replace(TRAIN, features="standardized"), False),
        ("train", replace(TRAIN, validation_fraction=0.2), False),
    ],
)
def test_members_with_other_data_do_not_share_them(
    run_data: RunData, section: str, value: Any, same_train: bool
) -> None:
    one = run_data.member(run_data.config).problem(adapt=True)
    other = run_data.member(replace(run_data.config, **{section: value})).problem(adapt=True)
    assert (one.train is other.train) is same_train
    assert one.budget is not other.budget
    assert other.budget is not None and one.budget is not None
    fresh = RunData(replace(run_data.config, **{section: value}), run_data.features)
    expected = fresh.problem(adapt=True)
    assert expected.budget is not None
    for found, wanted in ((other.train, expected.train), (other.budget, expected.budget)):
        for array, right in zip(found.rows, wanted.rows, strict=True):
            np.testing.assert_array_equal(array, right)
    np.testing.assert_array_equal(other.budget.mask_SxB, expected.budget.mask_SxB)
    np.testing.assert_array_equal(other.train.group_N, expected.train.group_N)


def test_memory_that_is_not_given_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < engine.free_memory() < 1e15

    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 1000, "bytes_in_use": 400}

    monkeypatch.setattr(engine.jax, "local_devices", lambda: [Device()])
    assert engine.free_memory() == 300
