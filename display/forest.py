"""Layout of the method overview: interval positions, and column ranks to sort without a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..heads.evaluation.rows import ORACLE, VALIDATED, labelled_rows

STEP = 0.1


def forest(report: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out a forest plot of macro accuracies and their intervals.

    The axis covers all intervals and 0.5, which is chance, and ends at multiples of 0.1.

    Returns:
        ``{"low", "high", "chance", "ticks", "rows"}``. A tick is ``{"value", "left"}``, a row
        ``{"name", "label", "single", "left", "width", "dot"}``; ``chance``, ``left``, ``width``
        and ``dot`` are in percent of the axis, ``low`` and ``high`` are accuracies.
    """
    methods = report["methods"]
    spans = [entry["macro"] for entry in methods.values()]
    # Rounded first, because 0.3 / 0.1 is slightly less than 3 in floating point.
    low = STEP * math.floor(round(min(0.5, *(span["low"] for span in spans)) / STEP, 6))
    high = STEP * math.ceil(round(max(0.6, *(span["high"] for span in spans)) / STEP, 6))

    def percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    steps = round((high - low) / STEP)
    return {
        "low": low,
        "high": high,
        "chance": percent(0.5),
        "ticks": [
            {"value": low + STEP * step, "left": percent(low + STEP * step)}
            for step in range(steps + 1)
        ],
        "rows": [
            {
                "name": name,
                "label": label.strip(),
                "single": name.endswith((ORACLE, VALIDATED)),
                "left": percent(methods[name]["macro"]["low"]),
                "width": round(
                    percent(methods[name]["macro"]["high"])
                    - percent(methods[name]["macro"]["low"]),
                    2,
                ),
                "dot": percent(methods[name]["macro"]["accuracy"]),
            }
            for name, label in labelled_rows(methods)
        ],
    }


def column_ranks(report: Mapping[str, Any], attributes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rank all methods in each sortable column, best first, 0-based; ties keep the row order.

    Columns are ``order`` (as run), ``macro``, ``nll``, ``ece``, and ``0``, ``1``, ... for the
    attributes. The style sheet reorders the rows by these ranks, so that the page needs no script.
    """
    methods = report["methods"]
    names = [name for name, _ in labelled_rows(methods)]
    keys: dict[str, Callable[[str], float]] = {
        "order": names.index,
        "macro": lambda name: -methods[name]["macro"]["accuracy"],
        "nll": lambda name: methods[name]["nll"],
        "ece": lambda name: methods[name]["ece"],
    }
    for index, attribute in enumerate(attributes):
        keys[str(index)] = lambda name, a=attribute: -methods[name]["attributes"][a]["accuracy"]
    return {
        column: {name: rank for rank, name in enumerate(sorted(names, key=key))}
        for column, key in keys.items()
    }
