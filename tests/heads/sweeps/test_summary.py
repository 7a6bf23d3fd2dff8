"""From rows of a sweep to curves, the best by validation, a page and a terminal."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from micro_rm.display.page import SHOWN_SETTINGS, render_sweep_page
from micro_rm.display.sweeps import SHOWN_SETTINGS as SHOWN
from micro_rm.display.sweeps import progress_line, sweep_tables
from micro_rm.heads.sweeps.summary import ACCURACY, NLL, summarise
from micro_rm.heads.sweeps.table import NUMBERS, SweepTable

K, TAU, SEED = "train.num_heads", "adapt.tau", "run.seed"
ATTACK = "<script>alert('x')</script>"


def row(settings: dict[str, Any], method: str, **numbers: Any) -> dict[str, Any]:
    blank = dict.fromkeys(NUMBERS) | {"accuracy": 0.5, "nll": 0.6, "ece": 0.1, "error": None}
    about = {"member": 0, "label": json.dumps(settings, sort_keys=True), "method": method}
    return about | settings | blank | numbers


def failure(settings: dict[str, Any], error: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("method", "accuracy", "nll", "ece"))
    return row(settings, "", error=error) | nothing


def sweep(rows: list[dict[str, Any]], *keys: str) -> SweepTable:
    return SweepTable("these", keys, ("brief",), rows)


def grid(losses: dict[tuple[int, float], list[float | None]]) -> list[dict[str, Any]]:
    """Two methods at every (K, tau), one run per loss; test accuracy falls as K and tau rise."""
    rows = []
    for (heads, tau), values in losses.items():
        for seed, loss in enumerate(values):
            settings = {K: heads, TAU: tau, SEED: seed}
            accuracy = 0.9 - heads / 100 - tau / 1000 + seed / 10_000
            known = {"validation_nll": loss, "validation_rows": None if loss is None else 8}
            rows.append(row(settings, "micro_stage1", accuracy=accuracy - 0.2, **known))
            rows.append(row(settings, "micro", accuracy=accuracy, nll=accuracy / 2, **known))
            rows.append(row(settings, "micro_stage1_best_head_oracle", accuracy=0.95, nll=9.0))
    return rows


LOSSES: dict[tuple[int, float], list[float | None]] = {
    (2, 0.5): [0.60, 0.62],
    (2, 1.0): [0.50, 0.52],
    (4, 0.5): [0.40, 0.42],
    (4, 1.0): [0.45, 0.41],
}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return summarise(sweep(grid(LOSSES), K, TAU, SEED), 0.95)


def settings_of(entries: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(entry["settings"][K], entry["settings"][TAU]) for entry in entries]


def test_settings_are_ranked_by_mean_validation_loss(found: dict[str, Any]) -> None:
    """Not by test accuracy, which would say the opposite here."""
    entries = found["best"]["micro"]
    assert settings_of(entries) == [(4, 0.5), (4, 1.0), (2, 1.0), (2, 0.5)]
    assert entries[0]["accuracy"]["mean"] < entries[-1]["accuracy"]["mean"]
    losses = [entry["validation_nll"] for entry in entries]
    assert losses == pytest.approx([0.41, 0.43, 0.51, 0.61])
    assert list(found["best"]) == ["micro_stage1", "micro"], "best single heads are no methods"


def test_seeds_are_one_setting(found: dict[str, Any]) -> None:
    assert found["members"] == 8 and found["keys"] == [K, TAU, SEED]
    for entry in found["best"]["micro"]:
        assert entry["seeds"] == 2 and SEED not in entry["settings"]
        assert entry["validation_rows"] == 8
        values = entry["accuracy"]["values"]
        assert len(values) == 2 and entry["accuracy"]["mean"] == pytest.approx(np.mean(values))
        assert entry["accuracy"]["low"] < min(values)
    assert set(found["studies"]) == {K, TAU}


def test_a_curve_shows_every_value_at_the_other_keys_best(found: dict[str, Any]) -> None:
    """tau = 1 is best for K = 2, tau = 0.5 for K = 4."""
    points = found["studies"][K]["metrics"][ACCURACY]["micro"]
    assert [point["x"] for point in points] == [2, 4]
    means = [point["mean"] for point in points]
    assert means == pytest.approx([0.9 - 0.02 - 0.001 + 5e-5, 0.9 - 0.04 - 0.0005 + 5e-5])
    assert found["studies"][K]["seeds"] == 2
    tau = found["studies"][TAU]["metrics"][ACCURACY]["micro"]
    expected = [0.9 - 0.04 - value / 1000 + 5e-5 for value in (0.5, 1.0)]  # K = 4 in both
    assert [point["mean"] for point in tau] == pytest.approx(expected)


def test_best_heads_are_in_the_accuracies_only(found: dict[str, Any]) -> None:
    metrics = found["studies"][K]["metrics"]
    assert list(metrics[ACCURACY]) == [
        "micro_stage1",
        "micro",
        "best head of micro_stage1, oracle",
    ]
    assert list(metrics[NLL]) == ["micro_stage1", "micro"]
    assert metrics[NLL]["micro"][0]["mean"] == pytest.approx((0.9 - 0.02 - 0.001 + 5e-5) / 2)


def test_the_reading_names_the_best_value_and_what_it_was_judged_by(found: dict[str, Any]) -> None:
    reading = found["studies"][K]["reading"]
    assert "By validation NLL of micro (8 rows) the best value is 4 (0.4100 nats)" in reading
    assert "its test accuracy is 0.860" in reading
    assert f"Every value is shown with the other keys ({TAU}) at their best." in reading
    alone = summarise(sweep([r for r in grid(LOSSES) if r[TAU] == 0.5], K), 0.95)
    assert "other keys" not in alone["studies"][K]["reading"]


def test_the_last_method_with_validation_rows_everywhere_decides() -> None:
    rows = grid(LOSSES)
    for one in rows:
        if one["method"] == "micro" and one[K] == 4 and one[TAU] == 1.0:
            one["validation_nll"] = None
    found = summarise(sweep(rows, K, TAU, SEED), 0.95)
    assert found["followed"] == "micro_stage1"
    assert "By validation NLL of micro_stage1" in found["studies"][K]["reading"]
    assert settings_of(found["best"]["micro"])[-1] == (4, 1.0), "unjudged settings come last"


def test_without_validation_rows_nothing_is_best_and_the_summary_says_so() -> None:
    rows = grid({key: [None, None] for key in LOSSES})
    found = summarise(sweep(rows, K, TAU, SEED), 0.95)
    assert found["followed"] is None
    reading = "No validation rows judge the values: raise train.validation_fraction."
    assert found["studies"][K]["reading"] == reading
    assert settings_of(found["best"]["micro"]) == list(LOSSES), "in order of the members"
    assert all(entry["validation_nll"] is None for entry in found["best"]["micro"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "log"),
    [([1e-4, 1e-1], True), ([0.1, 5.0], False), ([0.1, 5.1], True), ([0.0, 100.0], False)],
)
def test_values_that_span_much_are_on_a_logarithmic_axis(values: list[float], log: bool) -> None:
    rows = grid({(2, value): [0.5] for value in reversed(values)})
    study = summarise(sweep(rows, TAU), 0.95)["studies"][TAU]
    assert study["x"]["log"] is log and "tau" in study["x"]["label"]
    assert [point["x"] for point in study["metrics"][ACCURACY]["micro"]] == values


@pytest.mark.parametrize(
    "values",
    [["mlp", "linear"], [True, False], [3, None], [3, 3], [[1], [2]]],
    ids=str,
)
def test_only_numbers_that_vary_make_a_curve(values: list[Any]) -> None:
    rows = [row({"k": value, SEED: n}, "micro") for n, value in enumerate(values)]
    found = summarise(sweep(rows, "k", SEED), 0.95)
    assert found["studies"] == {}
    assert len(found["best"]["micro"]) == (1 if values == [3, 3] else 2)


def test_members_that_failed_are_told_and_left_out() -> None:
    bad = {K: 8, TAU: 0.5, SEED: 0}
    found = summarise(sweep([*grid(LOSSES), failure(bad, "diverged")], K, TAU, SEED), 0.95)
    assert found["failed"] == [{"settings": bad, "error": "diverged"}]
    assert found["members"] == 9
    assert (8, 0.5) not in settings_of(found["best"]["micro"])
    assert [p["x"] for p in found["studies"][K]["metrics"][ACCURACY]["micro"]] == [2, 4]


def test_all_members_may_have_failed() -> None:
    found = summarise(sweep([failure({K: n}, "no") for n in (1, 2)], K), 0.95)
    assert (found["best"], found["studies"], found["followed"]) == ({}, {}, None)
    assert len(found["failed"]) == 2
    page = render_sweep_page(found, "x", [], 0.95)
    assert "2 members could not be fitted" in page


# --- the page -------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, addresses and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = ("src", "href", "xlink:href", "action", "data")
        self.addresses += [value or "" for name, value in attrs if name in names]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_escapes_every_text_and_asks_nobody() -> None:
    settings = {K: 2, "train.router": ATTACK}
    rows = [row(settings | {K: n}, ATTACK, validation_nll=0.5, validation_rows=3) for n in (2, 3)]
    rows.append(failure({K: 9, "train.router": ATTACK}, f"{ATTACK} & more"))
    found = summarise(sweep(rows, K, "train.router"), 0.95)
    text = render_sweep_page(found, ATTACK, [ATTACK], 0.9)
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text.lower()
    words = "".join(page.words)
    assert words.count("alert(") >= 6 and f"{ATTACK} & more" in words
    assert all(address.startswith("#") for address in page.addresses)
    assert "default-src 'none'" in text and "@import" not in text and "<link" not in text
    assert "90 %" in words


def test_the_page_shows_curves_failures_and_the_best(found: dict[str, Any]) -> None:
    rows = [*grid(LOSSES), failure({K: 8, TAU: 0.5, SEED: 0}, "diverged")]
    text = render_sweep_page(summarise(sweep(rows, K, TAU, SEED), 0.95), "toy", [], 0.95)
    assert text.count("<svg") == 4  # two studies of two metrics
    assert "1 members could not be fitted" in text and "diverged" in text
    words = " ".join("".join(Page(text).words).split())
    assert "toy: a sweep of 9 members" in words
    assert "micro, 8 validation rows" in words and "0.4100" in words
    assert words.index("0.4100") < words.index("0.4300") < words.index("0.6100")
    assert found["studies"][K]["reading"] in words


def test_the_page_shows_the_first_settings_only() -> None:
    count = SHOWN_SETTINGS + 5
    rows = [
        row({K: n}, "micro", validation_nll=1 + n / 100, validation_rows=3) for n in range(count)
    ]
    text = render_sweep_page(summarise(sweep(rows, K), 0.95), "toy", [], 0.95)
    assert f"{1 + (SHOWN_SETTINGS - 1) / 100:.4f}" in text
    assert f"{1 + SHOWN_SETTINGS / 100:.4f}" not in text


def test_a_sweep_without_validation_rows_has_a_page() -> None:
    rows = grid({(2, 0.5): [None]})
    text = render_sweep_page(summarise(sweep(rows, K, TAU, SEED), 0.95), "toy", [], 0.95)
    assert "<svg" not in text and 'class="win"' not in text and "–" in text


# --- the terminal ---------------------------------------------------------------------------------


def shown(found: dict[str, Any]) -> str:
    console = Console(width=140, markup=False)
    with console.capture() as captured:
        for part in sweep_tables(found):
            console.print(part)
    return " ".join(captured.get().split())


def test_the_terminal_shows_curves_the_best_and_failures(found: dict[str, Any]) -> None:
    rows = [*grid(LOSSES), failure({K: 8, TAU: 0.5, SEED: 0}, "diverged [/b]")]
    text = shown(summarise(sweep(rows, K, TAU, SEED), 0.95))
    assert "micro: best by validation, of 4 settings" in text
    assert text.index("0.4100") < text.index("0.5100")
    assert "failed" in text and "diverged [/b]" in text
    assert found["studies"][K]["reading"] in text


def test_the_terminal_shows_a_few_settings_and_no_list_of_one() -> None:
    rows = [row({K: n}, "micro", validation_nll=1 + n / 100) for n in range(SHOWN + 2)]
    text = shown(summarise(sweep(rows, K), 0.95))
    assert f"{1 + (SHOWN - 1) / 100:.4f}" in text and f"{1 + SHOWN / 100:.4f}" not in text
    single = shown(summarise(sweep([row({K: 2}, "micro")], K), 0.95))
    assert "best by validation" not in single


def test_progress_counts_failures_where_there_are_any() -> None:
    assert progress_line(3, 8, 0) == "sweep    3 of 8 members"
    assert progress_line(3, 8, 1) == "sweep    3 of 8 members, 1 failed"
