"""The registry of methods: names, order, and what comes before what."""

from __future__ import annotations

from typing import get_args

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.heads.methods import (
    METHODS,
    check_names,
    choose_methods,
    default_methods,
    load_method,
    ranked_methods,
)
from micro_rm.heads.methods.interface import Given, Need
from micro_rm.heads.run_data import LACKS

ALL = [load_method(name) for name in METHODS]


def names(asked: list[str] | str) -> list[str]:
    return [method.name for method in choose_methods(asked)]


def test_registered_names_lead_to_methods_of_that_name_that_describe_themselves() -> None:
    assert [method.name for method in ALL] == list(METHODS)
    assert METHODS.keys() >= {"single_bt", "static_mixture", "micro_stage1", "micro"}
    assert all(method.summary.endswith(".") for method in ALL)
    assert {method.stage for method in ALL} == {"train", "adapt"}
    assert {method.rule for method in ALL} == {"R1", "R2"}
    assert {method.given for method in ALL} <= set(get_args(Given))
    assert {need for method in ALL for need in method.needs} <= set(LACKS) == set(get_args(Need))


def test_one_pass_in_registry_order_fits_what_comes_first_first() -> None:
    """In a stage that is over by then, and of no more needs than its successor."""
    pairs = [(load_method(earlier), method) for method in ALL for earlier in method.after]
    assert pairs
    for earlier, method in pairs:
        assert ALL.index(earlier) < ALL.index(method)
        assert earlier.stage == "train"
        assert set(earlier.needs) <= set(method.needs)


def test_who_adapts_needs_somebody_to_adapt_to_and_who_reads_a_wish_needs_one() -> None:
    assert not [m.name for m in ALL if m.stage == "adapt" and "groups" not in m.needs]
    assert not [m.name for m in ALL if m.given == "context" and "contexts" not in m.needs]
    assert {m.name for m in ALL if m.given == "context"} == {"micro", "micro_kernel"}


def test_facts_of_the_methods_that_reports_and_seeds_go_by() -> None:
    assert {m.name for m in ALL if m.routes} == {"micro_stage1", "micro", "micro_kernel"}
    assert {m.name for m in ALL if not m.seeded} == {
        *("native_head", "length_only", "single_bt_exact", "drm"),
        *("hyre", "hyre_anchored", "micro_hyre", "micro_kernel"),
    }


@pytest.mark.parametrize("asked", ["all", ["micro", "all"]])
def test_all_names_every_method(asked: list[str] | str) -> None:
    assert names(asked) == check_names(asked) == list(METHODS)


@pytest.mark.parametrize("asked", [["static_mixture", "single_bt"], "static_mixture, single_bt"])
def test_names_come_as_a_list_or_as_text_and_leave_in_registry_order(
    asked: list[str] | str,
) -> None:
    assert names(asked) == check_names(asked) == ["single_bt", "static_mixture"]


def test_what_comes_before_a_method_is_chosen_with_it() -> None:
    assert check_names("micro") == ["micro"]
    assert names("micro") == ["micro_stage1", "micro"]


def test_no_name_or_an_unknown_one_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"expected all or some of native_head, .*found 'mirco'"):
        check_names(["micro", "mirco"])
    with pytest.raises(ConfigError, match="methods: expected all or some of"):
        check_names([])


def test_methods_say_themselves_what_they_are_chosen_for() -> None:
    with_context = ["micro", "micro_kernel", "micro_stage1", "static_mixture", "single_bt"]
    plain = ["micro_stage1", "static_mixture", "single_bt", "single_bt_exact", "native_head"]
    assert default_methods("context") == with_context
    assert default_methods("prompt") == plain
    ranks = [method.rank for method in ranked_methods()]
    assert len(set(ranks)) == len(ranks), "an order without ties"
    streaming = {method.name for method in ALL if method.streams}
    assert streaming == {"single_bt", "static_mixture", "micro_stage1", "micro"}
