"""Methods under several training seeds, and those that cannot be fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest

from micro_rm.common.errors import UserError
from micro_rm.configs.schema import Config, ViewsConfig
from micro_rm.heads import fitting, stages
from micro_rm.heads.divergence import DivergenceError
from micro_rm.heads.evaluation.rows import VALIDATED
from micro_rm.heads.fitting import fit_methods, of_seed
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Method, Problem, Trained, predict_reward
from micro_rm.tests.heads.tiny_run import run_config, store_beside


@dataclass(frozen=True)
class Key:
    """A problem of which only the key matters."""

    key: int


def method(
    name: str, *after: str, seeded: bool = True, error: type[Exception] | None = None
) -> Any:
    def fit(problem: Problem, done: Mapping[str, Trained]) -> Trained:
        if error is not None and problem.key == 2:
            raise error("no rows")
        known = {one: float(done[one].params["value"]) for one in after}
        return Trained({"value": np.array(float(problem.key))}, {"after": known})

    return Method(
        name,
        "A test.",
        "train",
        fit,
        lambda trained, examples: predict_reward(np.zeros((1, 0))),
        after=after,
        seeded=seeded,
    )


def values(models: Mapping[str, list[Trained]], name: str) -> list[float]:
    return [float(one.params["value"]) for one in models[name]]


KEYS: Any = [Key(0), Key(1), Key(2)]


def test_a_method_is_fitted_per_seed_if_it_or_what_it_builds_on_is_random() -> None:
    chosen = [
        method("random"),
        method("exact", seeded=False),
        method("on_random", "random", "exact", seeded=False),
        method("on_exact", "exact", seeded=False),
    ]
    models, failed = fit_methods(chosen, KEYS, {})
    assert failed == {}
    assert values(models, "random") == values(models, "on_random") == [0, 1, 2]
    assert values(models, "exact") == values(models, "on_exact") == [0]
    assert [one.settings["after"] for one in models["on_random"]] == [
        {"random": float(seed), "exact": 0.0} for seed in range(3)
    ]
    assert of_seed(models, 2)["random"].params["value"] == 2
    assert of_seed(models, 2)["exact"].params["value"] == 0


def test_a_method_that_fails_under_one_seed_is_left_out_with_those_that_need_it() -> None:
    chosen = [method("good"), method("bad", error=UserError), method("later", "bad")]
    models, failed = fit_methods(chosen, KEYS, {})
    assert list(models) == ["good"]
    assert failed == {
        "bad": "no rows",
        "later": "it comes after bad, which could not be fitted",
    }
    _, failed = fit_methods([method("later", "bad")], KEYS, models, {"bad": "no rows"})
    assert list(failed) == ["later"]


def test_where_no_method_can_be_fitted_the_first_error_is_raised_under_its_name() -> None:
    chosen = [method("bad", error=DivergenceError), method("worse", error=UserError)]
    with pytest.raises(DivergenceError, match=r"^bad: no rows$"):
        fit_methods(chosen, KEYS, {})


def test_an_error_that_users_cannot_cause_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        fit_methods([method("good"), method("bad", error=ZeroDivisionError)], KEYS, {})


def test_the_first_seed_is_that_of_the_run_and_others_have_keys_of_their_own(tiny: Any) -> None:
    config = run_config(tiny, tiny.store.parent / "unused")
    data = stages.open_run_data(replace(config, train=replace(config.train, seeds=4)))
    problems = data.problems(adapt=False)
    keys = [jax.random.key_data(problem.key).tolist() for problem in problems]
    assert keys[0] == jax.random.key_data(jax.random.key(config.run.seed)).tolist()
    assert len({tuple(key) for key in keys}) == 4
    assert all(problem.train is problems[0].train for problem in problems)


def test_members_of_one_program_are_what_each_seed_is_alone(tiny: Any) -> None:
    config = run_config(tiny, tiny.store.parent / "unused")
    data = stages.open_run_data(config)
    chosen = [load_method("micro_stage1")]
    together, _ = fit_methods(chosen, data.problems(adapt=False), {})
    for seed, problem in enumerate(data.problems(adapt=False)):
        alone, _ = fit_methods(chosen, [problem], {})
        kernels = [one["micro_stage1"] for one in (of_seed(together, seed), of_seed(alone, 0))]
        one, other = (kernel.params["heads"]["kernel"] for kernel in kernels)
        np.testing.assert_allclose(one, other, atol=1e-5)


def failing(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a method of the package fail."""

    def load(asked: str) -> Method:
        found = load_method(asked)
        if asked != name:
            return found

        def fit(*_: Any) -> Trained:
            raise error

        return replace(found, fit=fit, fit_many=None, program=None)

    for module in (stages, fitting):
        monkeypatch.setattr(module, "load_method", load)
    monkeypatch.setattr(
        stages, "choose_methods", lambda names: [load(one) for one in names.split(",")]
    )


def test_the_reason_of_a_method_that_failed_stands_in_the_report(
    tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "single_bt,micro_stage1,dpl,micro,hyre"
    config: Config = replace(run_config(tiny, tmp_path), methods=names)
    failing("dpl", UserError("dpl needs more rows"), monkeypatch)
    trained, skipped = stages.train(config)
    assert trained == ["single_bt", "micro_stage1"]
    assert skipped == {"dpl": "dpl needs more rows"}
    failing("micro", UserError("micro needs more rows"), monkeypatch)
    config = replace(config, methods="single_bt,micro_stage1,dpl,micro")
    assert stages.adapt(config) == ([], {"micro": "micro needs more rows"})
    report = stages.evaluate(config)
    assert report["skipped"] == {"dpl": "dpl needs more rows", "micro": "micro needs more rows"}
    assert {"single_bt", "micro_stage1"} <= set(report["methods"])


def test_validated_heads_are_chosen_in_the_view_that_they_are_scored_in(
    tiny: Any, tmp_path: Any
) -> None:
    """In the plain view every label is turned round: who chose there would take the worst head."""
    rows = dict(tiny.table.rows)
    rows["plain/chosen"], rows["plain/rejected"] = rows["plain/rejected"], rows["plain/chosen"]
    config = replace(
        run_config(tiny, tmp_path),
        methods="micro_stage1",
        store=store_beside(tiny, tmp_path / "store", rows=rows),
        views=ViewsConfig(adapt_head="ctx"),
    )
    stages.train(config)
    methods = stages.evaluate(config)["methods"]
    assert methods["micro_stage1" + VALIDATED]["macro"]["accuracy"] > 0.8
