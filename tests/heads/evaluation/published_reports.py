"""Reports of runs that score what the paper prints, or an offset from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micro_rm.heads.evaluation.compare import published_tables

TABLES = {name: table for name, table in published_tables().items() if "rows" in table}
HALF = 1.959964  # standard errors on each side of 95 %


def report_of(table: str, ours: Mapping[str, float | None], error: float = 0.01) -> dict[str, Any]:
    """A report whose methods have the published values plus an offset, or nothing at all."""
    result = TABLES[table]
    methods = {}
    for row in result["rows"]:
        offset = ours.get(row["ours"])
        if offset is not None:
            cells = {
                name: span(value + offset, error) | {"n": size}
                for name, value, size in zip(
                    result["attributes"], row["values"], result["n"], strict=True
                )
            }
            mean = sum(row["values"]) / len(row["values"])
            methods[row["ours"]] = {"macro": span(mean + offset, error), "attributes": cells}
    return {
        "methods": methods,
        "benchmark": None,
        "confidence": 0.95,
        "budget": {"source": "test"},
        "record": {"config": {"data": data_of(result)}},
    }


def data_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The data configuration of a run on the published data."""
    variant = table["variants"][0] if "variants" in table else None
    parts = [{"source": name, "variant": None, "use": "train"} for name in table["trained"]]
    parts.append({"source": table["data"], "variant": variant, "use": "test"})
    return {"source": "union", "variant": None, "parts": parts}


def span(value: float, error: float) -> dict[str, float]:
    return {"accuracy": value, "low": value - HALF * error, "high": value + HALF * error}
