"""Characteristic pairs: the rows where a head differs, told with their texts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micro_rm.heads.evaluation.gallery import (
    MAX_CHARACTERS,
    characteristic_rows,
    excerpt,
    gallery,
    leads,
    prompt_text,
    served_contexts,
    shown_method,
)
from micro_rm.heads.methods import ranked_methods


def test_a_head_leads_where_it_differs_from_the_mean_of_the_others() -> None:
    delta_NxK = np.array([[2.0, 0.5, 0.5], [1.0, 1.0, 1.0], [-2.0, 1.0, 1.0], [0.5, 2.0, 0.1]])
    lead_NxK = leads(delta_NxK)
    unit_NxK = delta_NxK / np.sqrt((delta_NxK**2).mean(axis=0))
    assert lead_NxK[0, 0] == pytest.approx(unit_NxK[0, 0] - unit_NxK[0, 1:].mean())
    assert lead_NxK[2, 0] < 0 < lead_NxK[0, 0]
    assert lead_NxK[3, 0] == 0  # it agrees with the others, only less


def test_scale_decides_nothing_and_a_dead_head_leads_nowhere() -> None:
    rng = np.random.default_rng(0)
    delta_NxK = rng.normal(size=(20, 3))
    np.testing.assert_allclose(leads(delta_NxK), leads(delta_NxK * [1.0, 100.0, 0.01]))
    delta_NxK[:, 1] = 0
    assert not leads(delta_NxK)[:, 1].any()
    np.testing.assert_allclose(
        np.abs(leads(delta_NxK[:, :1])).max(), np.abs(leads(5 * delta_NxK[:, :1])).max()
    )


def test_the_largest_leads_of_different_prompts_are_chosen() -> None:
    lead_N = np.array([0.1, -3.0, 2.0, -2.5, 0.0])
    assert characteristic_rows(lead_N, np.array([0, 1, 2, 1, 3]), 3) == [1, 2, 0]
    assert characteristic_rows(np.zeros(3), np.arange(3), 3) == []


def test_wishes_are_those_that_give_a_head_more_than_its_mean() -> None:
    wishes = ["short", "short", "long", "", ""]
    result = served_contexts(wishes, np.array([0.9, 0.7, 0.1, 1.0, 1.0]))
    assert result == [{"text": "short", "characters": 5, "weight": pytest.approx(0.8), "n": 2}]
    assert served_contexts(["a", "b"], np.array([0.5, 0.5])) == []


def test_a_pair_says_what_the_head_prefers_whatever_the_label(make_report: Any) -> None:
    """Head 0 of the fixture likes ``brief``; on polite rows it wants what the rater refused."""
    result = make_report()["gallery"]
    assert result["method"] == "micro" and len(result["heads"]) == 2
    pairs = [pair for entry in result["heads"] for pair in entry["pairs"]]
    assert len(pairs) == 6
    for pair in pairs:
        agrees = pair["preferred"]["text"].startswith("Good")
        assert pair["label_agrees"] == agrees
        assert pair["other"]["text"].startswith("Bad" if agrees else "Good")
        assert pair["prompt"]["text"].startswith("Question")
    assert {w["text"] for w in result["heads"][0]["contexts"]} == {"Keep it brief."}
    assert [route["attribute"] for route in result["routes"]] == ["brief", "polite"]
    assert len({route["prompt"]["text"] for route in result["routes"]}) == 2
    json.dumps(result, allow_nan=False)


def test_without_several_heads_or_texts_there_is_nothing_to_show(
    make_scored: Any, make_test_rows: Any
) -> None:
    """One head; vectors without texts, as the simulator draws them."""
    rng = np.random.default_rng(0)
    test = make_test_rows([0, 1, 0, 1], [0, 0, 1, 1], "a", "b")
    empty = SimpleNamespace(
        text=dict.fromkeys(("prompt", "chosen", "rejected", "context"), [""] * 4)
    )
    assert gallery(empty, test, {"single_bt": make_scored(rng.normal(size=(4, 1)))}) is None
    result = gallery(empty, test, {"static_mixture": make_scored(rng.normal(size=(4, 2)))})
    assert result is not None
    assert result["routes"] == [] and [e["pairs"] for e in result["heads"]] == [[], []]
    assert [entry["contexts"] for entry in result["heads"]] == [[], []]


def test_heads_under_a_wish_are_preferred(make_scored: Any) -> None:
    two, one = make_scored(np.ones((3, 2))), make_scored(np.ones((3, 1)))
    scored = {"static_mixture": two, "micro": two}
    preferred = [method.name for method in ranked_methods()]
    first = ["micro", "micro_kernel", "micro_hyre", "micro_stage1", "static_mixture"]
    assert preferred[:5] == first
    assert shown_method(scored, preferred) == "micro"
    assert shown_method(scored) == "static_mixture"
    assert shown_method({"other": two, "single_bt": one}) == "other"


def test_long_texts_are_cut_and_conversations_keep_their_roles() -> None:
    assert excerpt("x" * 5000) == {"text": "x" * MAX_CHARACTERS, "characters": 5000}
    assert prompt_text('[["user", "Hi"], ["assistant", "Yes?"]]') == "user: Hi\nassistant: Yes?"
    assert prompt_text("not JSON") == "not JSON"
