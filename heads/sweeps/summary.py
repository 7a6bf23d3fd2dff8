"""A sweep's rows to what the report shows: curves over each key, and the best by validation (pure).

Runs that differ in run.seed only are one setting. Where other keys vary, too, a curve shows each
value of its key at the other keys' best by validation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...configs.sweep import SEED
from ..evaluation.rows import ORACLE, VALIDATED
from ..studies.points import curves, point
from .table import Row, SweepTable

ACCURACY, NLL = "macro accuracy", "NLL in nats"
TITLES = {
    "train.num_heads": "K, reward heads",
    "adapt.budget": "labelled rows per group",
    "adapt.tau": "tau of the Hedge targets, in nats",
}
# Values that span more than this factor are drawn on a logarithmic axis.
LOG_SPAN = 50
Setting = tuple[tuple[str, Any], ...]


def summarise(sweep: SweepTable, confidence: float) -> dict[str, Any]:
    """Curves by key, the settings in order of their validation loss, and who failed."""
    fitted = [row for row in sweep.rows if row["error"] is None]
    methods = list(dict.fromkeys(row["method"] for row in fitted))
    keys = [key for key in sweep.keys if key != SEED]
    settings = {
        method: _by_setting([row for row in fitted if row["method"] == method], keys)
        for method in methods
    }
    followed = _followed(settings)
    return {
        "keys": list(sweep.keys),
        "members": len(sweep.labels),
        "failed": [
            {"settings": json.loads(row["label"]), "error": row["error"]}
            for row in sweep.rows
            if row["error"] is not None
        ],
        "followed": followed,
        "best": {
            method: _ranked(by_setting, confidence)
            for method, by_setting in settings.items()
            if not method.endswith((ORACLE, VALIDATED))
        },
        "studies": {
            key: _curve(key, keys, settings, followed, confidence)
            for key in keys
            if _numeric(fitted, key)
        },
    }


def _by_setting(rows: Sequence[Row], keys: Sequence[str]) -> dict[Setting, list[Row]]:
    """Rows of each setting, one per seed."""
    grouped: dict[Setting, list[Row]] = {}
    for row in rows:
        setting = tuple((key, _hashable(row[key])) for key in keys)
        grouped.setdefault(setting, []).append(row)
    return grouped


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _numeric(rows: Sequence[Row], key: str) -> bool:
    values = {_hashable(row[key]) for row in rows}
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and len(values) > 1


def _followed(settings: dict[str, dict[Setting, list[Row]]]) -> str | None:
    """The method whose validation loss decides: the last that has one everywhere."""
    able = [
        method
        for method, by_setting in settings.items()
        if all(_validation(rows) is not None for rows in by_setting.values())
    ]
    return able[-1] if able else None


def _validation(rows: Sequence[Row]) -> float | None:
    """Mean validation loss over seeds, None if a run has none."""
    losses = [row["validation_nll"] for row in rows]
    return None if any(loss is None for loss in losses) else float(np.mean(losses))


def _ranked(by_setting: dict[Setting, list[Row]], confidence: float) -> list[dict[str, Any]]:
    """Settings of a method, the smallest validation loss first; in order of members without one."""
    entries = [
        {
            "settings": dict(setting),
            "seeds": len(rows),
            "validation_nll": _validation(rows),
            "validation_rows": rows[0]["validation_rows"],
            "accuracy": point(0.0, [row["accuracy"] for row in rows], confidence),
            "nll": point(0.0, [row["nll"] for row in rows], confidence),
        }
        for setting, rows in by_setting.items()
    ]
    known = [entry for entry in entries if entry["validation_nll"] is not None]
    unknown = [entry for entry in entries if entry["validation_nll"] is None]
    return sorted(known, key=lambda entry: entry["validation_nll"]) + unknown


def _curve(
    key: str,
    keys: Sequence[str],
    settings: dict[str, dict[Setting, list[Row]]],
    followed: str | None,
    confidence: float,
) -> dict[str, Any]:
    """A study in the report's form: one series per method over the values of a key."""
    deciding = settings[followed] if followed else next(iter(settings.values()))
    chosen: dict[float, Setting] = {}
    for setting, rows in deciding.items():
        value = dict(setting)[key]
        loss = _validation(rows) if followed else None
        best = chosen.get(value)
        if best is None or (loss is not None and loss < (_validation(deciding[best]) or np.inf)):
            chosen[value] = setting
    by_metric: dict[str, dict[float, dict[str, list[float]]]] = {ACCURACY: {}, NLL: {}}
    for value in sorted(chosen):
        for method, by_setting in settings.items():
            rows = by_setting.get(chosen[value], [])
            if rows:
                _add(by_metric[ACCURACY], value, _series(method), [row["accuracy"] for row in rows])
                if not method.endswith((ORACLE, VALIDATED)):
                    _add(by_metric[NLL], value, method, [row["nll"] for row in rows])
    values = sorted(chosen)
    label = TITLES.get(key, key)
    return {
        "title": f"Sweep: {label}",
        "question": f"What does {key} do?",
        "x": {
            "label": label,
            "log": values[0] > 0 and values[-1] / values[0] > LOG_SPAN,
        },
        "seeds": max(len(rows) for rows in deciding.values()),
        "metrics": {metric: curves(rows, confidence) for metric, rows in by_metric.items()},
        "reading": _reading(key, keys, chosen, deciding, followed),
    }


def _add(
    table: dict[float, dict[str, list[float]]], x: float, series: str, values: list[float]
) -> None:
    table.setdefault(x, {})[series] = values


def _series(method: str) -> str:
    if method.endswith(ORACLE):
        return f"best head of {method.removesuffix(ORACLE)}, oracle"
    if method.endswith(VALIDATED):
        return f"best head of {method.removesuffix(VALIDATED)}, validated"
    return method


def _reading(
    key: str,
    keys: Sequence[str],
    chosen: dict[float, Setting],
    deciding: dict[Setting, list[Row]],
    followed: str | None,
) -> str:
    others = [other for other in keys if other != key]
    if followed is None:
        return "No validation rows judge the values: raise train.validation_fraction."
    losses = {value: _validation(deciding[setting]) for value, setting in chosen.items()}
    best = min(losses, key=lambda value: losses[value] or 0.0)
    accuracy = np.mean([row["accuracy"] for row in deciding[chosen[best]]])
    rows = deciding[chosen[best]][0]["validation_rows"]
    text = (
        f"By validation NLL of {followed} ({rows} rows) the best value is {best:g} "
        f"({losses[best]:.4f} nats); its test accuracy is {accuracy:.3f}."
    )
    if others:
        text += f" Every value is shown with the other keys ({', '.join(others)}) at their best."
    return text
