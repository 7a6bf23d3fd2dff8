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
from micro_rm.heads.methods.interface import Need, Told
from micro_rm.heads.run_data import LACKS


def names(asked: list[str] | str) -> list[str]:
    return [method.name for method in choose_methods(asked)]


@pytest.mark.parametrize("name", METHODS)
def test_a_registered_name_leads_to_the_method_of_that_name(name: str) -> None:
    method = load_method(name)
    assert method.name == name
    assert method.summary.endswith(".")
    assert method.stage in ("train", "adapt")
    assert method.rule in ("R1", "R2")
    assert method.told in get_args(Told)
    assert set(method.needs) <= set(LACKS) == set(get_args(Need))


def test_the_methods_of_the_paper_that_need_nothing_else_are_there() -> None:
    assert METHODS.keys() >= {"single_bt", "static_mixture", "micro_stage1", "micro"}


@pytest.mark.parametrize("name", METHODS)
def test_what_comes_first_is_registered_earlier_so_that_one_pass_can_fit_all(name: str) -> None:
    """And in a stage that is over by then: stage 2 takes only what stage 1 has trained."""
    order, method = list(METHODS), load_method(name)
    for earlier in method.after:
        assert order.index(earlier) < order.index(name)
        assert load_method(earlier).stage == "train"


@pytest.mark.parametrize("name", METHODS)
def test_what_comes_first_needs_nothing_that_its_successor_can_do_without(name: str) -> None:
    """Or a method would be fitted without the one that it builds on."""
    method = load_method(name)
    for earlier in method.after:
        assert set(load_method(earlier).needs) <= set(method.needs)


@pytest.mark.parametrize("name", METHODS)
def test_who_adapts_needs_somebody_to_adapt_to(name: str) -> None:
    method = load_method(name)
    assert method.stage == "train" or "groups" in method.needs
    assert method.told != "wish" or "contexts" in method.needs


@pytest.mark.parametrize("asked", ["all", ["all"], ["micro", "all"]])
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


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"expected all or some of native_head, .*found 'mirco'"):
        check_names(["micro", "mirco"])


def test_no_method_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="methods: expected all or some of"):
        check_names([])


def test_methods_say_themselves_what_they_are_chosen_for() -> None:
    with_context = ["micro", "micro_kernel", "micro_stage1", "static_mixture", "single_bt"]
    plain = ["micro_stage1", "static_mixture", "single_bt", "single_bt_exact", "native_head"]
    assert default_methods("context") == with_context
    assert default_methods("prompt") == plain
    ranks = [method.rank for method in ranked_methods()]
    assert len(set(ranks)) == len(ranks), "an order without ties"
    streaming = {name for name in METHODS if load_method(name).streams}
    assert streaming == {"single_bt", "static_mixture", "micro_stage1", "micro"}
