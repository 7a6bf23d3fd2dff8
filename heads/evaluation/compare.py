"""Compare a report with the published tables, allowing for the sampling noise of both (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from statistics import NormalDist
from typing import Any

from ...common.errors import UserError

FILE = "published.json"
COUNTS = "table5"  # the published table of pair counts instead of accuracies
ABOVE, WITHIN, BELOW, NO_COUNTERPART = "above", "within noise", "below", "no counterpart"
CONFIDENCE = 0.95
# Largest difference between a printed average and the mean of its entries, rounded to 1e-4.
ROUNDING = 1.01e-4


class CompareError(UserError):
    """The comparison is impossible; the message lists what could be compared."""


@cache
def published_tables() -> Mapping[str, Any]:
    """The tables of the paper by name, as printed, with notes on their known misprints."""
    folder = resources.files(__name__.rpartition(".")[0])
    return json.loads(folder.joinpath(FILE).read_text("utf-8"))


def compare(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Set the cells of a report beside those of a published table.

    Args:
        report: The content of ``report.json``; for a table of counts only its ``account``.
        name: Name of the published table, such as ``"table2"``.

    Returns:
        ``table``, ``title``, ``notes`` on what differs, and either ``attributes`` and ``rows`` of
        accuracies with a verdict each, or ``counts`` of pairs.

    Raises:
        CompareError: The table does not exist, or shares no attribute with the report.
    """
    if name not in published_tables():
        raise CompareError(
            f"no published table {name!r}; there are {', '.join(published_tables())}"
        )
    table = published_tables()[name]
    if "counts" in table:
        return _compare_counts(report, name, table)
    ours = _methods(report)
    if not any(attribute in _attributes(ours) for attribute in table["attributes"]):
        raise CompareError(
            f"{name} is about {', '.join(table['attributes'])}; the report has "
            f"{', '.join(_attributes(ours))}"
        )
    rows = [_row(row, table, ours, report["confidence"]) for row in _rows(table)]
    return {
        "table": name,
        "title": table["title"],
        "attributes": table["attributes"],
        "rows": rows,
        "notes": [
            *_other_data(report["record"]["config"]["data"], table),
            *_other_sizes(table, ours),
            *_other_labels(report["budget"]["source"], table),
            *table["notes"],
            *_averages(table),
        ],
    }


def comparable(report: Mapping[str, Any]) -> list[str]:
    """Names of the published tables that share an attribute with a report."""
    names = set(_attributes(_methods(report)))
    return [
        name
        for name, table in published_tables().items()
        if names & set(table.get("attributes", ()))
    ]


def _methods(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Accuracies per method, in the benchmark's own units if the test set is a benchmark."""
    benchmark = report["benchmark"]
    return report["methods"] if benchmark is None else benchmark["methods"]


def _attributes(methods: Mapping[str, Any]) -> list[str]:
    return list(next(iter(methods.values()))["attributes"]) if methods else []


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a published table, its single heads replaced by their best per attribute.

    Heads of two trainings do not correspond one to one, but their best does.
    """
    if "best_heads" not in table:
        return list(table["rows"])
    best = table["best_heads"]
    heads = [row["values"] for row in table["rows"] if " Head " in row["name"]]
    values = [max(column) for column in zip(*heads, strict=True)]
    return [row for row in table["rows"] if " Head " not in row["name"]] + [
        best | {"values": values}
    ]


def _row(
    row: Mapping[str, Any], table: Mapping[str, Any], ours: Mapping[str, Any], confidence: float
) -> dict[str, Any]:
    """One published row: a cell per attribute and one for the average, each with a verdict."""
    method = ours.get(row["ours"]) if row["ours"] else None
    values = row["values"]
    # The paper does not score the rows that a method has adapted to.
    sizes = [size - row.get("left_out", 0) for size in table["n"]]
    cells = {}
    for attribute, value, size in zip(table["attributes"], values, sizes, strict=True):
        cell = method["attributes"].get(attribute) if method else None
        floor = _variance(cell["accuracy"], cell["n"]) if cell else 0.0
        cells[attribute] = _cell(value, _variance(value, size), cell, floor, confidence)
    # The average of independent accuracies: its variance is their sum over the count squared.
    count = len(values)
    variance = sum(map(_variance, values, sizes)) / count**2
    # Macro averages over different sets of attributes are not comparable.
    same = method is not None and set(method["attributes"]) == set(table["attributes"])
    macro = method["macro"] if method is not None and same else None
    our_cells = method["attributes"].values() if method is not None and same else ()
    floor = sum(_variance(cell["accuracy"], cell["n"]) for cell in our_cells) / count**2
    return {
        "name": row["name"],
        "ours": row["ours"],
        "cells": cells,
        "average": _cell(_mean(values), variance, macro, floor, confidence)
        | {"printed": row["average"]},
    }


def _variance(accuracy: float, rows: int) -> float:
    """Variance of an accuracy over ``rows`` rows, by Agresti and Coull.

    Adding two right and two wrong rows keeps it positive where all rows are right.
    """
    adjusted = (accuracy * rows + 2) / (rows + 4)
    return adjusted * (1 - adjusted) / (rows + 4)


def _cell(
    value: float,
    variance: float,
    ours: Mapping[str, float] | None,
    floor: float,
    confidence: float,
) -> dict[str, Any]:
    """A published value beside ours, with a verdict at the 95 % level.

    ``noise`` is the smallest difference that counts. It combines ``variance``, that of the
    published value, with that of our bootstrap interval (at level ``confidence``). The interval
    has no width where all rows are right, so our variance is at least ``floor``.
    """
    if ours is None:
        return {"published": value, "ours": None, "verdict": NO_COUNTERPART}
    width_in_errors = 2 * NormalDist().inv_cdf((1 + confidence) / 2)
    our_variance = max(((ours["high"] - ours["low"]) / width_in_errors) ** 2, floor)
    noise = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(our_variance + variance)
    difference = ours["accuracy"] - value
    verdict = WITHIN if abs(difference) <= noise else (ABOVE if difference > 0 else BELOW)
    return {
        "published": value,
        "ours": ours["accuracy"],
        "low": ours["low"],
        "high": ours["high"],
        "difference": difference,
        "noise": noise,
        "verdict": verdict,
    }


def _averages(table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Note printed averages that contradict their entries; ours are compared with the mean."""
    return [
        _note(
            f"average of {row['name']}",
            f"Printed as {row['average']:.4f}, but its entries average {_mean(row['values']):.4f}.",
        )
        for row in table["rows"]
        if row["average"] is not None and abs(_mean(row["values"]) - row["average"]) > ROUNDING
    ]


def _other_data(data: Mapping[str, Any], table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Note where our training data, test data or split differ from those of the paper.

    ``data`` is the data configuration of the run record.
    """
    parts = data["parts"] if data["source"] == "union" else [{**data, "use": "both"}]
    trained = {part["source"] for part in parts if part["use"] in ("train", "both")}
    tested = {part["source"]: part["variant"] for part in parts if part["use"] in ("test", "both")}
    notes = []
    if trained != set(table["trained"]):
        notes.append(
            _note(
                "training data",
                f"Not the same models: ours are trained on {', '.join(sorted(trained))}, theirs "
                f"on {', '.join(table['trained'])}.",
            )
        )
    if set(tested) != {table["data"]}:
        notes.append(
            _note(
                "test data",
                f"Not the same test set: ours is of {', '.join(sorted(tested))}, theirs of "
                f"{table['data']}.",
            )
        )
    elif "variants" in table and tested[table["data"]] not in table["variants"]:
        notes.append(
            _note(
                "variant",
                f"Not the same test set: our split is {tested[table['data']] or 'the default'}, "
                f"theirs is drawn from {table['variants'][0]}.",
            )
        )
    return notes


def _other_sizes(table: Mapping[str, Any], ours: Mapping[str, Any]) -> list[dict[str, str]]:
    """Note where the numbers of test rows differ from those of the paper."""
    cells = next(iter(ours.values()))["attributes"]
    sizes = [cells[name]["n"] if name in cells else 0 for name in table["attributes"]]
    if sizes == table["n"]:
        return []
    text = f"Not the same test set: ours has {_joined(sizes)} rows, theirs {_joined(table['n'])}."
    return [_note("test rows", text)]


def _other_labels(source: str, table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Note where the paper's HyRe rows adapt to labelled test rows and ours to training rows."""
    adapted = [row["name"] for row in table["rows"] if "HyRe" in row["name"]]
    if source == "test" or not adapted:
        return []
    text = "Ours adapt to labelled training rows, theirs to test rows."
    return [_note(", ".join(adapted), text)]


def _note(about: str, text: str) -> dict[str, str]:
    return {"about": about, "text": text}


def _compare_counts(
    report: Mapping[str, Any], name: str, table: Mapping[str, Any]
) -> dict[str, Any]:
    """Set the numbers of pairs per attribute and split beside the published ones."""
    attributes = report["account"]["attributes"]
    rows = []
    for data, counts in table["counts"].items():
        for index, attribute in enumerate(counts["attributes"]):
            if attribute in attributes:
                rows += [
                    {
                        "name": f"{data} {attribute} {split}",
                        "published": counts[split][index],
                        "ours": attributes[attribute][split],
                    }
                    for split in ("train", "test")
                ]
    if not rows:
        raise CompareError(
            f"{name} counts pairs of {', '.join(table['counts'])}; the data have the attributes "
            f"{', '.join(attributes)}"
        )
    return {"table": name, "title": table["title"], "counts": rows, "notes": list(table["notes"])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _joined(numbers: Sequence[int]) -> str:
    return "/".join(str(number) for number in numbers)
