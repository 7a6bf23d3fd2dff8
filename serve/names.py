"""Names of reward heads, after the attributes that they predict best in the run's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run_dir.report_json import read_report_json


def read_report(run: Path) -> dict[str, Any]:
    """Load ``report.json`` of a run; empty if it is missing or unreadable."""
    try:
        report = read_report_json(run)
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def head_names(report: Mapping[str, Any], method: str, count: int) -> list[str]:
    """Return a distinct name for each of ``count`` heads of a method.

    A head is named after the attribute that it predicts best in the report, with its index appended
    if several heads share the name or it is unspecific. Without a report the names are ``head_0``,
    ``head_1``, ...; a single head is named ``reward``.

    >>> report = {"heads": {"micro": {"names": ["brief", "long", "long"]}}}
    >>> head_names(report, "micro", 3), head_names({}, "micro", 2)
    (['brief', 'long_1', 'long_2'], ['head_0', 'head_1'])
    """
    attributes = report.get("heads", {}).get(method, {}).get("names", [])
    if count == 1 or len(attributes) != count:
        return ["reward"] if count == 1 else [f"head_{index}" for index in range(count)]
    names: list[str] = []
    for index, name in enumerate(attributes):
        unique = attributes.count(name) == 1 and name != "unspecific"
        names.append(name if unique else f"{name}_{index}")
    # An attribute may itself be named like one with an index, for example long_1.
    return names if len(set(names)) == count else [f"head_{index}" for index in range(count)]
