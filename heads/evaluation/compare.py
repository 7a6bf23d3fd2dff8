"""Our numbers beside the published ones, with a verdict that knows the noise of both (pure)."""

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
COUNTS = "table5"
ABOVE, WITHIN, BELOW, ALONE = "above", "within noise", "below", "no counterpart"
CONFIDENCE = 0.95
# A printed average may differ by this from the mean of its rounded entries.
ROUNDING = 1.01e-4


class CompareError(UserError):
    """There is nothing to compare; the message says what there is."""


@cache
def published() -> Mapping[str, Any]:
    """The tables of the paper, as printed, with what is known of their errors."""
    folder = resources.files(__name__.rpartition(".")[0])
    return json.loads(folder.joinpath(FILE).read_text("utf-8"))


def compare(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A published table with our cells beside it.

    Raises ``CompareError`` for a table that there is not, or a report without its attributes.
    """
    if name not in published():
        raise CompareError(f"no published table {name!r}; there are {', '.join(published())}")
    table = published()[name]
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
    """The published tables that share an attribute with a report."""
    names = set(_attributes(_methods(report)))
    return [name for name, table in published().items() if names & set(table.get("attributes", ()))]


def _methods(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Accuracies per method; of a benchmark in its own units."""
    found = report["benchmark"]
    return report["methods"] if found is None else found["methods"]


def _attributes(methods: Mapping[str, Any]) -> list[str]:
    return list(next(iter(methods.values()))["attributes"])


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that have a number of ours to stand beside, and those that never have one."""
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
    method = ours.get(row["ours"]) if row["ours"] else None
    values = row["values"]
    # Rows that a method has adapted to are not scored.
    sizes = [size - row.get("left_out", 0) for size in table["n"]]
    cells = {}
    for attribute, value, size in zip(table["attributes"], values, sizes, strict=True):
        cell = method["attributes"].get(attribute) if method else None
        floor = _variance(cell["accuracy"], cell["n"]) if cell else 0.0
        cells[attribute] = _cell(value, _variance(value, size), cell, floor, confidence)
    number = len(values)
    variance = sum(map(_variance, values, sizes)) / number**2
    # A macro average over other attributes is another quantity.
    whole = method is not None and set(method["attributes"]) == set(table["attributes"])
    macro = method["macro"] if method is not None and whole else None
    mine = method["attributes"].values() if method is not None and whole else ()
    floor = sum(_variance(cell["accuracy"], cell["n"]) for cell in mine) / number**2
    return {
        "name": row["name"],
        "ours": row["ours"],
        "cells": cells,
        "average": _cell(_mean(values), variance, macro, floor, confidence)
        | {"printed": row["average"]},
    }


def _variance(accuracy: float, rows: int) -> float:
    """Variance of an accuracy over so many rows, two right and two wrong ones added (Agresti and
    Coull): where all rows are right, the accuracy is not certain."""
    adjusted = (accuracy * rows + 2) / (rows + 4)
    return adjusted * (1 - adjusted) / (rows + 4)


def _cell(
    value: float,
    variance: float,
    ours: Mapping[str, float] | None,
    floor: float,
    confidence: float,
) -> dict[str, Any]:
    """A published value and ours; ``noise`` is what their difference must exceed to be one.

    ``variance`` is that of the published value. Ours is that of its bootstrap interval, which is
    nothing where all rows are right, but at least ``floor``.
    """
    if ours is None:
        return {"published": value, "ours": None, "verdict": ALONE}
    width = 2 * NormalDist().inv_cdf((1 + confidence) / 2)
    mine = max(((ours["high"] - ours["low"]) / width) ** 2, floor)
    noise = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(mine + variance)
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
    """Printed averages that are not those of their entries; ours stand beside the recomputed."""
    return [
        _note(
            f"average of {row['name']}",
            f"Printed as {row['average']:.4f}, but its entries average {_mean(row['values']):.4f}.",
        )
        for row in table["rows"]
        if row["average"] is not None and abs(_mean(row["values"]) - row["average"]) > ROUNDING
    ]


def _other_data(data: Mapping[str, Any], table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Where our models or our test rows come from other data than the published ones.

    ``data`` is the data configuration of the run record.
    """
    parts = data["parts"] if data["source"] == "union" else [{**data, "use": "both"}]
    trained = {part["source"] for part in parts if part["use"] in ("train", "both")}
    variants = {p["source"]: p["variant"] for p in parts if p["use"] in ("test", "both")}
    notes = []
    if trained != set(table["trained"]):
        notes.append(
            _note(
                "training data",
                f"Not the same models: ours are trained on {', '.join(sorted(trained))}, theirs "
                f"on {', '.join(table['trained'])}.",
            )
        )
    if set(variants) != {table["data"]}:
        notes.append(
            _note(
                "test data",
                f"Not the same test set: ours is of {', '.join(sorted(variants))}, theirs of "
                f"{table['data']}.",
            )
        )
    elif "variants" in table and variants[table["data"]] not in table["variants"]:
        notes.append(
            _note(
                "variant",
                f"Not the same test set: our split is {variants[table['data']] or 'the default'}, "
                f"theirs is drawn from {table['variants'][0]}.",
            )
        )
    return notes


def _other_sizes(table: Mapping[str, Any], ours: Mapping[str, Any]) -> list[dict[str, str]]:
    """Where our test rows are not as many as the published ones."""
    cells = next(iter(ours.values()))["attributes"]
    mine = [cells[name]["n"] if name in cells else 0 for name in table["attributes"]]
    if mine == table["n"]:
        return []
    text = f"Not the same test set: ours has {_listed(mine)} rows, theirs {_listed(table['n'])}."
    return [_note("test rows", text)]


def _other_labels(source: str, table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Whether published rows learnt from labelled test rows where ours have training rows."""
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
    """Pairs per attribute and split, ours beside theirs."""
    attributes = report["account"]["attributes"]
    rows = []
    for data, counts in table["counts"].items():
        for place, attribute in enumerate(counts["attributes"]):
            if attribute in attributes:
                rows += [
                    {
                        "name": f"{data} {attribute} {split}",
                        "published": counts[split][place],
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


def _listed(numbers: Sequence[int]) -> str:
    return "/".join(str(number) for number in numbers)
