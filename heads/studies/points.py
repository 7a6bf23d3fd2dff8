"""Measurements over seeds to points of a curve (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

# {x: {series: [one value per seed]}}
Measured = Mapping[float, Mapping[str, Sequence[float]]]


def point(x: float, values: Sequence[float], confidence: float) -> dict[str, Any]:
    """Mean over seeds with its t interval; a single seed has no interval, low and high are null."""
    array = np.asarray(values, np.float64)
    mean, low, high, std = float(array.mean()), None, None, 0.0
    if array.size > 1:
        std = float(array.std(ddof=1))
        half = float(stats.t.ppf((1 + confidence) / 2, array.size - 1)) * std / array.size**0.5
        low, high = mean - half, mean + half
    return {"x": x, "mean": mean, "low": low, "high": high, "std": std, "values": array.tolist()}


def curves(measured: Measured, confidence: float) -> dict[str, list[dict[str, Any]]]:
    """``{series: points in order of x}``; a series may lack some x."""
    series = dict.fromkeys(name for row in measured.values() for name in row)
    return {
        name: [point(x, row[name], confidence) for x, row in measured.items() if name in row]
        for name in series
    }


def best_point(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The point with the largest mean; the first of equals."""
    return max(points, key=lambda item: item["mean"])
