"""theory.html: self-contained, complete, and its numbers are those of the result."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from micro_rm.display import theory_page
from micro_rm.display.theory_page import CASES, LINES, render_theory_page
from micro_rm.heads.theory import bounds, experiment
from micro_rm.tests.display.harmless import Page, require_harmless


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A result with invented losses, no two alike; nothing is fitted."""
    names = [*LINES, "gain"]
    sweep = [
        {
            "case": case,
            "spread": spread,
            "values": {
                name: {
                    "value": 0.1 + 0.2 * row + 0.05 * column + 0.0101 * order,
                    "standard_error": 0.0003,
                }
                for order, name in enumerate(names)
            },
        }
        for row, case in enumerate(CASES)
        for column, spread in enumerate((0.5, 1.0, 2.0))
    ]
    return {
        "config": {"num_groups": 3, "clarity": 0.85, "pairs": 4321, "seed": 7, "dir": "<b>x</b>"},
        "misreadings": bounds.misreadings(),
        "random": experiment.check_random_mixtures(40, 0),
        "sweep": sweep,
    }


@pytest.fixture(scope="module")
def page(result: dict[str, Any]) -> str:
    return render_theory_page(result)


def test_every_number_of_the_sweep_is_in_the_tables(page: str, result: dict[str, Any]) -> None:
    text = Page(page).text
    for row in result["sweep"]:
        for name in LINES:
            assert f"{row['values'][name]['value']:.4f}" in text
        assert f"{row['values']['gain']['value']:+.4f}" in text


def test_the_verdict_quotes_the_middle_spread(page: str, result: dict[str, Any]) -> None:
    verdict = page[page.index('class="verdict"') : page.index("</section>")]
    ordered, silent = (
        next(r for r in result["sweep"] if (r["case"], r["spread"]) == (case, 1.0))["values"]
        for case in ("ordered", "silent")
    )
    for name in ("single", "mixture", "best_single", "irreducible"):
        assert f"{ordered[name]['value']:.4f}" in verdict
    for name in ("single", "mixture", "best_single"):
        assert f"{silent[name]['value']:.4f}" in verdict
    assert "At spread 1, where the prompt names the group with probability 0.85" in verdict
    for seen in result["random"]["tightness"].values():
        assert f"{100 * seen['median']:.0f} %" in verdict


def test_every_line_of_every_panel_has_a_name_and_the_axes_a_unit(page: str) -> None:
    assert page.count("<svg") == 2
    drawn = [part[: part.index("</svg>")] for part in page.split("<svg")[1:]]
    tightness, sweep = drawn
    for line in LINES.values():
        assert f">{line.label}</text>" in sweep
    assert ">loss per pair (nats)</text>" in sweep
    assert sweep.count(">spread of a group's score differences (log-odds)</text>") == len(CASES)
    for title in CASES.values():
        for half in title.split(", "):
            assert half in sweep
    for bound in experiment.BOUNDS:
        assert f">{LINES[bound].label} (median" in tightness
    assert len({(line.colour, line.style, line.marker) for line in LINES.values()}) == len(LINES)


def test_the_readings_and_the_caveats_are_told_with_their_numbers(
    page: str, result: dict[str, Any]
) -> None:
    text = Page(page).text
    assert "128.0, while a constant 1/2 has loss 0.6931" in text
    assert "would be 1.0131, while a constant 1/2 has loss 0.6931" in text
    for claim in (
        "Logarithms are natural",
        "For two interchangeable answers the bound is empty",
        "It does not separate a mixture from one reward",
        "cannot get below E[h(σ̄)] either",
        "A mixture gains in two ways only",
        "a reward is transitive, a population need not be",
        "The printed H is not the H of the proof",
        "Scores cannot take the place of probabilities",
    ):
        assert claim in text
    shuffled = next(r for r in result["sweep"] if (r["case"], r["spread"]) == ("shuffled", 1.0))
    fall = f"falls from {0.15 + 0.0101 * 7:.4f} to {shuffled['values']['paper_bound']['value']:.4f}"
    assert list(LINES).index("paper_bound") == 7
    assert fall in text


@pytest.mark.long
def test_violations_are_counted_and_not_praised(page: str, result: dict[str, Any]) -> None:
    assert "0 violations in 40 random mixtures: every loss is above every bound" in page
    broken = copy.deepcopy(result)
    broken["random"]["violations"]["paper_bound >= irreducible"] = 3
    text = Page(render_theory_page(broken)).text
    assert "3 violations in 40 random mixtures" in text
    assert "every loss is above every bound" not in text
    assert "3 of 40" in text


def test_settings_cannot_smuggle_in_markup_and_one_spread_is_enough(
    page: str, result: dict[str, Any]
) -> None:
    """A path in the configuration, and a seed in a result that was read from a file."""
    hostile = {**result, "config": {**result["config"], "seed": "<b>7</b>"}}
    hostile["sweep"] = [row for row in result["sweep"] if row["spread"] == 2.0]
    shown = require_harmless(render_theory_page(hostile))
    assert "b" not in [*require_harmless(page).tags, *shown.tags]
    assert "seed <b>7</b>." in shown.text and "At spread 2, where" in shown.text
    assert "prefers-color-scheme: dark" in page


def test_histograms_span_all_shares(
    result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(theory_page, "svg", lambda figure, _name: drawn.append(figure))
    theory_page.tightness_figure(result)
    stairs = [patch.get_data() for patch in drawn[0].axes[0].patches]
    histograms = [item["histogram"] for item in result["random"]["tightness"].values()]
    assert [step.values.tolist() for step in stairs] == histograms
    for step in stairs:
        np.testing.assert_allclose(step.edges, np.linspace(0, 1, len(step.values) + 1))
