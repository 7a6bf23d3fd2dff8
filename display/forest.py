"""Places on the page: where a method's interval lies, and how columns sort without a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..heads.evaluation.rows import ORACLE, VALIDATED, labelled_rows

STEP = 0.1


def forest(report: Mapping[str, Any]) -> dict[str, Any]:
    """Macro accuracies with their intervals as percent of a common axis.

    ``{"low", "high", "ticks": [{"value", "place"}], "rows": [{"name", "label", "left", "width",
    "dot"}]}``; the axis ends at tenths and holds every interval and 0.5.
    """
    methods = report["methods"]
    spans = [entry["macro"] for entry in methods.values()]
    # Rounded first: 0.3 / 0.1 is a little less than 3.
    low = STEP * math.floor(round(min(0.5, *(span["low"] for span in spans)) / STEP, 6))
    high = STEP * math.ceil(round(max(0.6, *(span["high"] for span in spans)) / STEP, 6))

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    steps = round((high - low) / STEP)
    return {
        "low": low,
        "high": high,
        "chance": place(0.5),
        "ticks": [
            {"value": low + STEP * step, "place": place(low + STEP * step)}
            for step in range(steps + 1)
        ],
        "rows": [
            {
                "name": name,
                "label": label.strip(),
                "single": name.endswith((ORACLE, VALIDATED)),
                "left": place(methods[name]["macro"]["low"]),
                "width": round(
                    place(methods[name]["macro"]["high"]) - place(methods[name]["macro"]["low"]), 2
                ),
                "dot": place(methods[name]["macro"]["accuracy"]),
            }
            for name, label in labelled_rows(methods)
        ],
    }


def orders(report: Mapping[str, Any], attributes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rank of every method (0 first) in every sortable column: best first, equals as they stand.

    Columns are ``order`` (as run), ``macro``, ``nll``, ``ece`` and ``0``, ``1``, ... for the
    attributes.
    """
    methods = report["methods"]
    names = [name for name, _ in labelled_rows(methods)]
    keys: dict[str, Callable[[str], float]] = {
        "order": names.index,
        "macro": lambda name: -methods[name]["macro"]["accuracy"],
        "nll": lambda name: methods[name]["nll"],
        "ece": lambda name: methods[name]["ece"],
    }
    for number, attribute in enumerate(attributes):
        keys[str(number)] = lambda name, a=attribute: -methods[name]["attributes"][a]["accuracy"]
    return {
        column: {name: rank for rank, name in enumerate(sorted(names, key=key))}
        for column, key in keys.items()
    }
