"""A reader's own prompts in a report: asked for once, and what a context changes in numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from micro_rm.configs.report import ExamplePrompt
from micro_rm.display.page import render_page
from micro_rm.heads.evaluation.gallery import MAX_CHARACTERS
from micro_rm.heads.evaluation.prompts import SHOWN_HEADS, panels, route_prompts

EGG = ExamplePrompt("How do I boil an egg?", "Make me laugh.")
CAT = ExamplePrompt("What do cats eat?")


def numbered(prompts: Sequence[ExamplePrompt]) -> list[dict[str, Any]]:
    """Weights that tell the places of prompts."""
    return [{"micro": {"without": [float(n)], "with": None}} for n in range(len(prompts))]


def not_again(prompts: Sequence[ExamplePrompt]) -> list[dict[str, Any]]:
    raise AssertionError(f"routed again: {prompts}")


def test_every_prompt_is_kept_with_its_own_weights_in_order() -> None:
    kept = route_prompts(None, [EGG, CAT], numbered)
    assert kept is not None
    assert [row["prompt"]["text"] for row in kept["rows"]] == [EGG.prompt, CAT.prompt]
    assert [row["context"]["text"] for row in kept["rows"]] == ["Make me laugh.", ""]
    assert [row["weights"]["micro"]["without"] for row in kept["rows"]] == [[0.0], [1.0]]


def test_what_a_report_has_is_not_routed_again_and_stays_if_nothing_is_asked() -> None:
    assert route_prompts(None, [], not_again) is None
    kept = route_prompts(None, [EGG], numbered)
    assert route_prompts(kept, [EGG], not_again) == kept == route_prompts(kept, [], not_again)
    for context in (None, "Sing."):  # another context is another question
        other = route_prompts(kept, [ExamplePrompt(EGG.prompt, context)], numbered)
        assert other is not None and other["rows"][0]["context"]["text"] == (context or "")


def test_long_prompts_that_begin_alike_are_told_apart_though_they_are_cut() -> None:
    one, other = (ExamplePrompt("word " * MAX_CHARACTERS + end) for end in "ab")
    kept = route_prompts(None, [one], numbered)
    assert kept is not None and len(kept["rows"][0]["prompt"]["text"]) == MAX_CHARACTERS
    assert kept != route_prompts(kept, [other], numbered)


def profiles(count: int) -> dict[str, list[dict[str, str]]]:
    return {"micro": [{"title": f"taste {k}"} for k in range(count)]}


def test_a_context_moves_half_of_what_the_weights_differ_by() -> None:
    both = {"without": [0.5, 0.3, 0.2], "with": [0.1, 0.3, 0.6]}
    (panel,) = panels({"micro": both}, profiles(3))
    assert panel["moved"] == pytest.approx(0.4)
    assert [bar["title"] for bar in panel["bars"]] == ["taste 0", "taste 1", "taste 2"]
    assert [bar["with"] for bar in panel["bars"]] == both["with"] and panel["others"] is None


def test_heads_that_are_strong_in_either_case_are_named_and_the_rest_is_a_sum() -> None:
    both = {
        "without": [0.01, 0.5, 0.02, 0.2, 0.02, 0.2, 0.05],
        "with": [0.6, 0.01, 0.01, 0.2, 0.03, 0.1, 0.05],
    }
    (panel,) = panels({"micro": both}, profiles(7))
    assert [bar["head"] for bar in panel["bars"]] == [0, 1, 3, 5] and SHOWN_HEADS == 4
    assert panel["others"]["count"] == 3
    for side in ("without", "with"):
        total = sum(bar[side] for bar in panel["bars"]) + panel["others"][side]
        assert total == pytest.approx(1.0)


def test_without_a_context_nothing_moves_and_a_sum_of_one_head_is_never_shown() -> None:
    def without(heads: int) -> dict[str, Any]:
        return {"micro": {"without": [1 / heads] * heads, "with": None}}

    (panel,) = panels(without(5), profiles(5))
    assert panel["moved"] is None and len(panel["bars"]) == 5
    assert {bar["with"] for bar in panel["bars"]} == {None}
    (panel,) = panels(without(6), profiles(6))
    assert len(panel["bars"]) == 4 and panel["others"]["count"] == 2
    assert panels(without(2), {}) == panels(without(2), profiles(3)) == [], "heads without names"


def section(page: str) -> str:
    result = page[page.index('<h2 id="prompts">') :]
    return result[: result.index('<div class="panels">')] if "panels" in result else result


def test_the_page_sets_the_weights_without_and_with_the_context_side_by_side(
    make_report: Any,
) -> None:
    report = make_report()

    def page(prompt: ExamplePrompt, weights: dict[str, Any]) -> str:
        report["prompts"] = route_prompts(None, [prompt], lambda _: [weights])
        return render_page(report, {})

    assert 'id="prompts"' not in render_page(report, {})
    both = page(EGG, {"micro": {"without": [0.25, 0.75], "with": [0.83, 0.17]}})
    assert 'href="#prompts"' in both
    shown = section(both)
    assert "the context moves 58 % of the weight" in shown and "without the context" in shown
    bars = re.findall(r'bar (\w+)"><i style="width: ([\d.]+)%"></i><b>([\d.]+)<', shown)
    assert bars == [
        ("before", "25.0", "0.25"),
        ("after", "83.0", "0.83"),
        ("before", "75.0", "0.75"),
        ("after", "17.0", "0.17"),
    ]
    assert ">0 brief" in shown and ">1 polite" in shown
    plain = section(page(CAT, {"micro": {"without": [0.25, 0.75], "with": None}}))
    assert re.findall(r'bar (\w+)"', plain) == ["after", "after"]
    assert "without the context" not in plain and "moves" not in plain
    assert "No method of this run has a router" in section(page(EGG, {}))
