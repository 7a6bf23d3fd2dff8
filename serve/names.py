"""Names of heads, from what a run's evaluation found that they serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..heads.scoring import LINEAR


def read_report(run: Path) -> dict[str, Any]:
    """``report.json`` of a run, an empty one if it was never evaluated or cannot be read."""
    try:
        found = json.loads((run / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def head_names(report: Mapping[str, Any], method: str, count: int) -> list[str]:
    """A distinct name for every head: the attribute that it serves best, where it was measured."""
    known = report.get("heads", {}).get(method, {}).get("names", [])
    if count == 1 or method in LINEAR or len(known) != count:
        return ["reward"] if count == 1 else [f"head_{place}" for place in range(count)]
    names: list[str] = []
    for place, name in enumerate(known):
        alone = known.count(name) == 1 and name != "unspecific"
        names.append(name if alone else f"{name}_{place}")
    # An attribute may itself be called like a numbered one.
    return names if len(set(names)) == count else [f"head_{place}" for place in range(count)]
