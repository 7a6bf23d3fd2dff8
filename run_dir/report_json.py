"""``report.json``: the numbers of a run, read under today's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "report.json"

# Until 2026-11 a report called what a method is given at test time "told", and a context a "wish".
_GIVEN = {"wish": "context"}
_RENAMED = {"wish": "context", "wishes": "contexts"}


def read_report_json(run: Path) -> Any:
    """Content of a run's ``report.json``.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON.
    """
    return with_current_names(json.loads((run / NAME).read_text("utf-8")))


def with_current_names(report: Any) -> Any:
    """A report whose keys are today's; one written today is returned unchanged.

    >>> with_current_names({"methods": {"micro": {"told": "wish"}}})
    {'methods': {'micro': {'given': 'context'}}}
    """
    if not isinstance(report, dict):
        return report
    methods = {
        name: _method(entry) if isinstance(entry, dict) else entry
        for name, entry in report.get("methods", {}).items()
    }
    if "comparisons" in report:
        report = report | {"comparisons": [_comparison(item) for item in report["comparisons"]]}
    if "budget" in report:
        report = report | {"budget": {"apart": []} | report["budget"]}
    texts = {key: _renamed(report[key]) for key in ("gallery", "prompts") if key in report}
    return report | ({"methods": methods} if "methods" in report else {}) | texts


def _method(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method, which once had one seed and intervals over prompts alone."""
    entry = _given(entry) if "told" in entry else entry
    if "macro" not in entry or "seeds" in entry:
        return entry
    return entry | {
        "macro": {"few": False} | entry["macro"],
        "attributes": {name: {"few": False} | cell for name, cell in entry["attributes"].items()},
        "seeds": {"count": 1, "std": 0.0, "macro": [entry["macro"]["accuracy"]]},
        "units": ["prompts"],
    }


def _comparison(item: dict[str, Any]) -> dict[str, Any]:
    """A paired difference, which once said what its interval alone says."""
    if "standing" in item:
        return item
    standing = "better" if item["low"] > 0 else "worse" if item["high"] < 0 else "noise"
    return item | {
        "standing": standing,
        "p": None,
        "p_adjusted": None,
        "few": False,
        "units": ["prompts"],
    }


def _given(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a method with ``given`` where ``told`` was."""
    return {
        "given" if key == "told" else key: _GIVEN.get(value, value) if key == "told" else value
        for key, value in entry.items()
    }


def _renamed(content: Any) -> Any:
    if isinstance(content, list):
        return [_renamed(item) for item in content]
    if isinstance(content, dict):
        return {_RENAMED.get(key, key): _renamed(value) for key, value in content.items()}
    return content
