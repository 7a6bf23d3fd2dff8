"""What a head is for, in words: the attributes it serves and the ones it speaks against (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Standard errors of a coin's accuracy that an attribute must leave 0.5 by, and at least MARGIN.
ERRORS = 2.0
MARGIN = 0.05
# A title has so many attributes on each side at most, and only clearly opposed ones.
SERVED, OPPOSED = 2, 1
CLEARLY = 0.25


def profile(accuracy: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, Any]:
    """``title``, and the attributes that a head ``serves`` and ``opposes``, the clearest first.

    ``accuracy`` is that of one head alone on every attribute, over ``counts`` rows.
    """
    edge = {name: value - 0.5 for name, value in accuracy.items() if math.isfinite(value)}
    clear = {
        name: value
        for name, value in edge.items()
        if abs(value) > max(MARGIN, ERRORS * 0.5 / math.sqrt(max(counts[name], 1)))
    }
    serves = sorted((name for name in clear if clear[name] > 0), key=lambda n: -clear[n])
    opposes = sorted((name for name in clear if clear[name] < 0), key=lambda n: clear[n])
    return {"title": _title(serves, opposes, edge), "serves": serves, "opposes": opposes}


def _title(serves: Sequence[str], opposes: Sequence[str], edge: Mapping[str, float]) -> str:
    # The runner-up belongs into the name only if it is served about as well as the first.
    named = [name for name in serves[:SERVED] if edge[name] >= edge[serves[0]] / 2]
    against = [f"not {name}" for name in opposes[:OPPOSED] if edge[name] <= -CLEARLY]
    if not named and not against:
        return "no clear taste"
    return ", ".join([" + ".join(named)] * bool(named) + against)


def profiles(heads: Mapping[str, Any], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The profile of every head of one entry of ``report["heads"]``."""
    accuracy = heads["accuracy"]
    return [
        profile({name: values[k] for name, values in accuracy.items()}, counts)
        for k in range(len(heads["usage"]))
    ]
