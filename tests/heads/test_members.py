"""Members of one program against each one alone, in both stages, and when a run ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads import hedge, training
from micro_rm.heads.ensemble import draw, fit_grouped, stack
from micro_rm.heads.epochs import NOT_RUN, Curves
from micro_rm.heads.methods.interface import Examples, Problem
from micro_rm.heads.methods.micro import MICRO
from micro_rm.heads.methods.mixture import (
    MICRO_STAGE1,
    DivergenceError,
    fit_mixture,
    fit_mixtures,
    mixture_program,
)
from micro_rm.heads.model import ModelSpec, RouterKind
from micro_rm.heads.training import Hyperparams, TrainSpec, fit_members, mean_nll

D, N, HELD_OUT = 6, 60, 20
CONFIG = TrainConfig(
    num_heads=3, learning_rate=0.02, batch_size=16, epochs=3, router_units=5, entropy_weight=0.1
)


@pytest.fixture(scope="module")
def problem(
    make_examples: Callable[..., Examples], make_problem: Callable[..., Problem]
) -> Problem:
    """Two opposed tastes, chosen by the prompt, with noise that can be learnt by heart."""
    rng = np.random.default_rng(0)

    def rows(count: int) -> Examples:
        delta, prompt = rng.normal(size=(2, count, D))
        taste_N = np.where(prompt[:, 0] > 0, delta[:, 0], -delta[:, 0]) + rng.normal(size=count)
        return make_examples(np.where(taste_N[:, None] > 0, delta, -delta), prompt)

    return make_problem(rows(N), rows(HELD_OUT), train_config=CONFIG)


def member(problem: Problem, seed: int = 0, **changes: Any) -> Problem:
    return replace(
        problem, key=jax.random.key(seed), train_config=replace(problem.train_config, **changes)
    )


def compiled(function: Any) -> int:
    """Programs that a compiled function has been turned into."""
    return function._cache_size()


MANY: Any = partial(fit_grouped, MICRO)


def together(problems: list[Problem], kind: RouterKind, room: int = 0) -> list[Any]:
    model = lambda one: (one.train_config.num_heads, kind)  # noqa: E731
    method = replace(
        MICRO_STAGE1,
        fit_many=partial(fit_mixtures, model),
        program=partial(mixture_program, model),
    )
    return fit_grouped(method, problems, [{}] * len(problems), room)


def agree(found: Any, alone: Any, **limits: Any) -> None:
    losses = [dict(one.settings).pop("first_loss", None) for one in (found, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    both = [{k: v for k, v in one.settings.items() if k != "first_loss"} for one in (found, alone)]
    assert both[0] == both[1]

    def close(one: Any, other: Any) -> None:
        bounds: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6} | limits
        np.testing.assert_allclose(one, other, **bounds)

    jax.tree.map(close, (found.params, dict(found.curves)), (alone.params, dict(alone.curves)))


# --- stage 1 --------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {},
    {"num_heads": 2},
    {"seed": 3},
    {"num_heads": 4, "learning_rate": 0.05, "seed": 1},
    {"entropy_weight": 0.5},
    {"weight_decay": 0.3},
    {"clip": 0.01},
]

LONG_MLP, LONG_LINEAR = (pytest.param(kind, marks=pytest.mark.long) for kind in ("mlp", "linear"))


@pytest.mark.parametrize("kind", [LONG_MLP, LONG_LINEAR, "static"])
def test_members_of_one_program_are_what_each_is_alone(problem: Problem, kind: RouterKind) -> None:
    changes = CHANGES if kind == "linear" else CHANGES[2:5]
    problems = [member(problem, **change) for change in changes]
    before = compiled(training.fit_members)
    found = together(problems, kind)
    assert compiled(training.fit_members) == before + 1, "one program for all of them"
    kernels = [one.params["heads"]["kernel"] for one in found]
    assert [k.shape[1] for k in kernels] == [one.train_config.num_heads for one in problems]
    for place, kernel in enumerate(kernels):
        for other in kernels[:place]:
            shared = min(kernel.shape[1], other.shape[1])
            assert np.abs(kernel[:, :shared] - other[:, :shared]).max() > 1e-4
    # Alone every K is a program of its own, so some are enough.
    for place in (0, 2, 3, 5) if kind == "linear" else (0,):
        count = problems[place].train_config.num_heads
        agree(found[place], fit_mixture(problems[place], count, kind))


@pytest.mark.long
def test_what_members_do_not_share_is_a_program_of_its_own(
    problem: Problem, make_examples: Callable[..., Examples]
) -> None:
    """Other epochs, rows or validation rows: every member keeps its place and its numbers."""
    other = replace(problem, train=make_examples(np.asarray(problem.train.rows.delta_NxD)[:40]))
    problems = [
        member(problem),
        member(other),
        member(problem, epochs=1, seed=2),
        member(problem, seed=2),
    ]
    found = together(problems, "linear")
    assert [len(one.curves["objective"]) for one in found] == [3, 3, 1, 3]
    for place in (1, 3):
        agree(found[place], fit_mixture(problems[place], 3, "linear"))


@pytest.mark.long
def test_room_for_more_heads_changes_rounding_at_most(problem: Problem) -> None:
    """Sums are cut into vectors of another length, so that last bits may differ."""
    (padded,) = together([problem], "linear", room=10)
    agree(padded, fit_mixture(problem, 3, "linear"), rtol=1e-6, atol=2e-7)


@pytest.mark.long
def test_a_member_that_diverges_has_an_error_in_its_place(problem: Problem) -> None:
    wild: dict[str, Any] = {"learning_rate": 1e38, "clip": 1e30}
    changes: list[dict[str, Any]] = [{}, {"num_heads": 2, **wild}, {"seed": 3}]
    problems = [member(problem, **change) for change in changes]
    first, error, last = together(problems, "linear")
    assert isinstance(error, DivergenceError)
    assert "training 2 heads diverged" in str(error) and "lower train.learning_rate" in str(error)
    agree(first, fit_mixture(problems[0], 3, "linear"))
    agree(last, fit_mixture(problems[2], 3, "linear"))
    with pytest.raises(DivergenceError, match="3 heads diverged"):
        fit_mixture(member(problem, **wild), 3, "linear")


@pytest.mark.long
def test_16_bits_train_about_the_same_model(problem: Problem) -> None:
    exact = fit_mixture(problem, 3, "linear")
    narrow = fit_mixture(member(problem, precision="bfloat16"), 3, "linear")
    assert narrow.spec == exact.spec, "models are used in 32 bits"
    gap = np.abs(narrow.params["heads"]["kernel"] - exact.params["heads"]["kernel"]).max()
    assert 0 < gap < 0.02
    assert narrow.params["heads"]["kernel"].dtype == np.float32
    assert np.abs(narrow.curves["validation_nll"] - exact.curves["validation_nll"]).max() < 0.01


# --- one program, and when it ends ----------------------------------------------------------------


def raw_fit(
    problem: Problem, members: list[Hyperparams], train_spec: TrainSpec
) -> tuple[Any, Curves]:
    spec = ModelSpec(D, 3, "linear", CONFIG.router_units)
    params = draw(spec, stack([problem.key] * len(members)))
    rows = problem.train.rows, problem.validation.rows
    return fit_members(spec, train_spec, params, stack(members), *rows, jax.random.key(0))


def test_scalars_of_members_are_data_of_one_program(problem: Problem) -> None:
    train_spec = TrainSpec.from_config(replace(CONFIG, epochs=1), validated=True)
    base = Hyperparams.from_config(CONFIG, 3)
    kernels = [np.asarray(raw_fit(problem, [base], train_spec)[0]["heads"]["kernel"])]
    before = compiled(training.fit_members)
    changes: list[dict[str, Any]] = [
        {"learning_rate": 0.5},
        {"entropy_weight": 2.0},
        {"weight_decay": 0.7},
        {"clip": 1e-3},
        {"num_heads": 2},
    ]
    for change in changes:
        params, _ = raw_fit(problem, [base._replace(**change)], train_spec)
        kernel = np.asarray(params["heads"]["kernel"])
        assert all(np.abs(kernel - other).max() > 1e-5 for other in kernels), change
        kernels.append(kernel)
    assert compiled(training.fit_members) == before


def test_heads_that_are_not_in_use_are_never_trained(problem: Problem) -> None:
    train_spec = TrainSpec.from_config(replace(CONFIG, epochs=1), validated=True)
    params, _ = raw_fit(problem, [Hyperparams.from_config(CONFIG, 2)], train_spec)
    start = draw(ModelSpec(D, 3, "linear", CONFIG.router_units), stack([problem.key]))
    for part, name in (("heads", "kernel"), ("router", "output")):
        moved, drawn = params[part][name], start[part][name]
        for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(drawn), strict=True):
            np.testing.assert_array_equal(one[..., 2], other[..., 2])
            assert (np.asarray(one)[..., :2] != np.asarray(other)[..., :2]).any()


@pytest.fixture(scope="module")
def overfitting(problem: Problem) -> Problem:
    return member(problem, learning_rate=0.3, epochs=12, patience=2)


def expected_epochs(nll_E: np.ndarray, patience: int) -> int:
    """Epochs of a run that stops after so many without a better validation loss."""
    best, stale = np.inf, 0
    for epoch, nll in enumerate(nll_E):
        best, stale = min(best, nll), 0 if nll < best else stale + 1
        if stale == patience:
            return epoch + 1
    return len(nll_E)


@pytest.mark.long
def test_patience_ends_a_run_and_keeps_its_best_epoch(overfitting: Problem) -> None:
    stopped = fit_mixture(overfitting, 3, "linear")
    nll_E = stopped.curves["validation_nll"]
    epochs = expected_epochs(nll_E, 2)
    assert 3 <= epochs < 12, "the example must overfit"
    assert all(len(curve) == epochs for curve in stopped.curves.values())
    params = {
        "heads": stopped.params["heads"],
        "router": jax.tree.map(lambda leaf: leaf[0], stopped.params["router"]),
    }
    reached = float(mean_nll(stopped.spec, params, overfitting.validation.rows))
    assert reached == pytest.approx(nll_E.min(), abs=1e-5)
    assert nll_E.argmin() == epochs - 3


@pytest.mark.long
def test_epochs_behind_the_last_are_marked_and_members_stop_by_themselves(
    overfitting: Problem,
) -> None:
    train_spec = TrainSpec.from_config(overfitting.train_config, validated=True)
    fast, slow = (
        Hyperparams.from_config(overfitting.train_config, 3),
        Hyperparams.from_config(CONFIG, 3),
    )
    _, curves = raw_fit(overfitting, [fast, slow._replace(learning_rate=1e-3)], train_spec)
    ran_SxE = np.asarray(curves.objective) != NOT_RUN
    assert ran_SxE[1].all()
    last = int(ran_SxE[0].sum())
    assert 0 < last < 12 and ran_SxE[0, :last].all() and not ran_SxE[0, last:].any()
    np.testing.assert_array_equal(np.asarray(curves.validation_nll) != NOT_RUN, ran_SxE)


@pytest.mark.long
def test_without_validation_rows_nobody_loses_patience(
    overfitting: Problem, make_examples: Callable[..., Examples]
) -> None:
    blind = replace(overfitting, validation=make_examples(np.zeros((0, D))))
    found = fit_mixture(blind, 3, "linear")
    assert len(found.curves["objective"]) == 12
    assert np.isnan(found.curves["validation_nll"]).all()


# --- stage 2 --------------------------------------------------------------------------------------

ADAPT = AdaptConfig(budget=6, tau=0.3, learning_rate=0.05, epochs=4, batch_size=5)


@pytest.fixture(scope="module")
def adapting(problem: Problem, make_budget: Any) -> Problem:
    """Two draws of two groups with six rows each, one place empty, two wordings per group."""
    rng = np.random.default_rng(5)
    delta, prompt = rng.normal(size=(2, 2, 12, D))
    mask = np.ones((2, 12), np.float32)
    mask[1, 11] = 0
    wording = np.tile([0, 0, 1, 1, 1, 0, 2, 3, 2, 3, 3, 2], (2, 1))
    budget = make_budget(delta, prompt, groups=2, mask=mask, wording=wording)
    return replace(problem, adapt_config=ADAPT, budget=budget, groups=("a", "b"))


@pytest.mark.long
def test_stage_2_of_members_is_that_of_each_alone(adapting: Problem) -> None:
    """Also where stage 1, K, the seed or the labelled rows differ."""
    ones, others = member(adapting), member(adapting, seed=4, num_heads=2)
    stage1 = together([ones, others], "linear")
    budget: Any = adapting.budget
    shifted = replace(
        budget,
        rows=jax.tree.map(lambda leaf: leaf[::-1] + 0.5, budget.rows),
    )
    places = [
        (ones, 0, {}),
        (others, 1, {}),
        (ones, 0, {"tau": 5.0}),
        (ones, 0, {"learning_rate": 0.2, "targets": "group"}),
        (others, 1, {"weight_decay": 0.5, "targets": "wording"}),
        (replace(ones, budget=shifted), 0, {}),
    ]
    problems = [replace(one, adapt_config=replace(ADAPT, **change)) for one, _, change in places]
    done = [{"micro_stage1": stage1[number]} for _, number, _ in places]
    before = compiled(hedge.fit_routers)
    found = MANY(problems, done, 5)
    assert compiled(hedge.fit_routers) == before + 1, "one program for all of them"
    routers = []
    for one, models, problem in zip(found, done, problems, strict=True):
        agree(one, MICRO.fit(problem, models))
        first = models["micro_stage1"]
        np.testing.assert_array_equal(
            one.params["heads"]["kernel"], first.params["heads"]["kernel"]
        )
        router = one.params["router"]["output"]["kernel"]
        assert router.shape == (2, D, first.spec.num_heads)
        assert len(one.curves["cross_entropy"]) == ADAPT.epochs
        assert np.abs(router[0] - router[1]).max() > 1e-4, "draws must differ"
        assert all(
            router.shape != other.shape or np.abs(router - other).max() > 1e-4 for other in routers
        )
        routers.append(router)


@pytest.mark.long
def test_stage_2_of_other_shapes_is_a_program_of_its_own(
    adapting: Problem, make_budget: Any
) -> None:
    """And without labelled rows there is nothing to learn."""
    (stage1,) = together([adapting], "linear")
    nothing = make_budget(np.zeros((2, 0, D)), np.zeros((2, 0, D)))
    problems = [
        replace(adapting, budget=nothing),
        adapting,
        replace(adapting, adapt_config=replace(ADAPT, epochs=2)),
    ]
    found = MANY(problems, [{"micro_stage1": stage1}] * 3)
    jax.tree.map(np.testing.assert_array_equal, found[0].params, stage1.params)
    assert found[0].curves == {}
    assert [len(one.curves["cross_entropy"]) for one in found[1:]] == [4, 2]
    agree(found[2], MICRO.fit(problems[2], {"micro_stage1": stage1}))


@pytest.mark.long
def test_room_for_more_heads_hides_them_from_stage_2(adapting: Problem) -> None:
    (stage1,) = together([adapting], "linear")
    done = [{"micro_stage1": stage1}]
    (roomy,), (tight,) = (MANY([adapting], done, room) for room in (7, 0))
    agree(roomy, tight)
