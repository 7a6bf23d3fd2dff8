"""Curves with confidence intervals from measurements under several seeds (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

# {x: {series: [one value per seed]}}
SeedValues = Mapping[float, Mapping[str, Sequence[float]]]


def point(x: float, values: Sequence[float], confidence: float) -> dict[str, Any]:
    """Mean over seeds with its Student t interval.

    ``low`` and ``high`` are None for a single seed, which has no interval.
    """
    array = np.asarray(values, np.float64)
    mean, low, high, std = float(array.mean()), None, None, 0.0
    if array.size > 1:
        std = float(array.std(ddof=1))
        half = float(stats.t.ppf((1 + confidence) / 2, array.size - 1)) * std / array.size**0.5
        low, high = mean - half, mean + half
    return {"x": x, "mean": mean, "low": low, "high": high, "std": std, "values": array.tolist()}


def curves(measured: SeedValues, confidence: float) -> dict[str, list[dict[str, Any]]]:
    """Turn measurements into ``{series: points}``.

    Points keep the order of ``measured``; a series skips the x where it was not measured.
    """
    series = dict.fromkeys(name for row in measured.values() for name in row)
    return {
        name: [point(x, row[name], confidence) for x, row in measured.items() if name in row]
        for name in series
    }


def best_point(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The point with the largest mean; the first one if several are equal."""
    return max(points, key=lambda item: item["mean"])
