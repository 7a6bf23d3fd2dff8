"""Positions of intervals on the axis, and ranks within columns."""

from __future__ import annotations

from typing import Any

import pytest

from micro_rm.display.forest import column_ranks, forest


def test_an_axis_holds_every_interval_and_chance(make_report: Any) -> None:
    report = make_report()
    span = {"single_bt": (0.31, 0.4, 0.52), "micro": (0.85, 0.9, 0.9001)}
    for name, (low, accuracy, high) in span.items():
        report["methods"][name]["macro"] = {"low": low, "accuracy": accuracy, "high": high}
    result = forest(report)
    assert (result["low"], result["high"]) == (pytest.approx(0.3), pytest.approx(1.0))
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == list(report["methods"])
    assert rows["single_bt"]["left"] == pytest.approx(100 * 0.01 / 0.7, abs=0.01)
    assert rows["micro"]["dot"] == pytest.approx(100 * 0.6 / 0.7, abs=0.01)
    assert all(
        0 <= row["left"] <= row["dot"] <= row["left"] + row["width"] + 0.02 <= 100.02
        for row in rows.values()
    )
    assert [round(10 * tick["value"]) for tick in result["ticks"]] == list(range(3, 11))


def test_certain_methods_do_not_make_an_axis_without_length(make_report: Any) -> None:
    report = make_report()
    for entry in report["methods"].values():
        entry["macro"] = {"accuracy": 0.5, "low": 0.5, "high": 0.5}
    result = forest(report)
    assert (result["low"], result["high"]) == (pytest.approx(0.5), pytest.approx(0.6))


def test_columns_rank_the_best_first(make_report: Any) -> None:
    report = make_report()
    methods = report["methods"]
    result = column_ranks(report, ["brief", "polite"])
    assert list(result) == ["order", "macro", "nll", "ece", "0", "1"]
    for ranks in result.values():
        assert sorted(ranks.values()) == list(range(4))
    assert result["order"] == {name: place for place, name in enumerate(methods)}
    best = min(methods, key=lambda name: methods[name]["nll"])
    assert result["nll"][best] == 0
    best = max(methods, key=lambda name: methods[name]["macro"]["accuracy"])
    assert result["macro"][best] == 0
    polite = sorted(methods, key=lambda n: -methods[n]["attributes"]["polite"]["accuracy"])
    assert [name for name, _ in sorted(result["1"].items(), key=lambda i: i[1])] == polite
