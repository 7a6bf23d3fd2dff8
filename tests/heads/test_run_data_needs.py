"""What a run's data offer to methods that need more than pairs, and what they lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.methods import load_method
from micro_rm.heads.methods.interface import Method, Need, Problem
from micro_rm.heads.run_data import LACKS, RunData
from micro_rm.tests.heads.tiny_run import text

STANDARDIZED = TrainConfig(validation_fraction=0.2, features="standardized")
HEAD_D = np.linspace(-2, 3, 8).astype(np.float32)


# --- the backbone's head and ratings --------------------------------------------------------------


def test_the_native_head_gives_the_reward_of_raw_vectors_under_scaling(
    tiny: Any, make_run_data: Any
) -> None:
    """Margins are vector times head, as if nothing were scaled."""
    run_data = make_run_data(native_head_D=HEAD_D, train=STANDARDIZED)
    problem, method = run_data.problem(adapt=False), load_method("native_head")
    trained = method.fit(problem, {})
    prediction = method.predict(trained, run_data.stage2(run_data.parts.test))
    chosen_N, rejected_N = (
        tiny.vectors[f"ctx/{role}"][run_data.parts.test] @ HEAD_D for role in ("chosen", "rejected")
    )
    np.testing.assert_allclose(prediction.statistic_SxN, [chosen_N - rejected_N], atol=1e-4)
    assert np.ptp(run_data.scaler.delta_scale_D) > 0.5


@pytest.fixture
def rated(make_run_data: Any) -> RunData:
    """Ratings from 0 to 4 by store row, so that a response is rated alike in all its pairs."""
    plain = make_run_data().features.table.rows
    places_Nx2 = np.stack([plain["plain/chosen"], plain["plain/rejected"]], axis=1)
    help_Nx2 = (places_Nx2 % 5).astype(np.float32)
    brief_Nx2 = np.where(places_Nx2 % 7 == 0, np.nan, places_Nx2 % 3).astype(np.float32)
    return make_run_data({"ratings": {"help": help_Nx2, "brief": brief_Nx2}}, train=STANDARDIZED)


def test_rated_responses_are_those_of_training_prompts_scaled_like_differences(
    rated: RunData,
) -> None:
    problem = rated.problem(adapt=False)
    assert problem.load_ratings is not None
    ratings = problem.load_ratings()
    table, parts = rated.features.table, rated.parts
    rows_N = np.concatenate([parts.train, parts.validation])
    wanted = [table.rows[f"plain/{role}"][rows_N] for role in ("chosen", "rejected")]
    places_M = np.unique(np.concatenate(wanted))
    assert ratings.names == ("help", "brief")
    expected_MxD = rated.features.store.vectors(places_M) / rated.scaler.delta_scale_D
    np.testing.assert_allclose(ratings.features_MxD, expected_MxD, rtol=1e-6)
    assert ratings.features_MxD.dtype == np.float32
    np.testing.assert_array_equal(ratings.rating_MxA[:, 0], places_M % 5)
    unknown_M = places_M % 7 == 0
    assert unknown_M.any()
    expected_M = np.where(unknown_M, np.nan, places_M % 3)
    np.testing.assert_array_equal(ratings.rating_MxA[:, 1], expected_M)
    validation = {
        place
        for role in ("chosen", "rejected")
        for place in table.rows[f"plain/{role}"][parts.validation].tolist()
    }
    np.testing.assert_array_equal(ratings.held_out_M, [m in validation for m in places_M.tolist()])
    assert 0 < ratings.held_out_M.sum() < places_M.size


# --- what is lacking ------------------------------------------------------------------------------


def needy(*needs: Need) -> Method:
    """A method that needs some things."""

    def never(*_: object) -> Any:
        raise AssertionError("a method that lacks something must not run")

    return Method("needy", "Needs.", stage="train", fit=never, predict=never, needs=needs)


def test_data_that_have_everything_lack_nothing(rated: RunData) -> None:
    features = replace(rated.features, native_head_D=HEAD_D)
    assert replace(rated, features=features).lacks(needy(*LACKS)) is None


def test_each_need_is_of_its_own(tiny: Any, make_run_data: Any) -> None:
    """Labels without wishes serve some methods; wishes nobody can be adapted to serve none."""
    wishless = make_run_data(text(tiny, context=""))
    assert wishless.lacks(needy("groups")) is None
    assert wishless.lacks(needy("contexts")) == LACKS["contexts"]
    nameless = make_run_data(text(tiny, attribute=""))
    assert nameless.lacks(needy("groups")) == LACKS["groups"]
    assert nameless.lacks(needy("contexts")) == LACKS["contexts"]
    assert nameless.lacks(needy("users")) is None
    by_user = make_run_data(text(tiny, attribute=""), adapt=AdaptConfig(budget=8, group="user"))
    assert by_user.lacks(needy("groups")) is None
    assert by_user.lacks(needy("contexts")) is None
    only_tested = ["" if row < 80 else "ann" for row in range(120)]
    assert make_run_data(text(tiny, user=only_tested)).lacks(needy("users")) == LACKS["users"]


def test_the_first_thing_that_is_lacking_is_the_reason(tiny: Any, make_run_data: Any) -> None:
    without = make_run_data(text(tiny, attribute="", user="", context=""))
    needs: list[Need] = ["ratings", "native_head", "contexts", "groups", "users"]
    for place, need in enumerate(needs):
        assert without.lacks(needy(*needs[place:])) == LACKS[need]
    assert without.lacks(needy()) is None


def test_a_problem_offers_what_there_is(make_run_data: Any, rated: RunData) -> None:
    def offers(problem: Problem) -> tuple[bool, bool]:
        return problem.load_ratings is not None, problem.native_head_D is not None

    assert offers(make_run_data().problem(adapt=True)) == (False, False)
    assert offers(make_run_data(native_head_D=HEAD_D).problem(adapt=True)) == (False, True)
    assert offers(rated.problem(adapt=True)) == (True, False)
