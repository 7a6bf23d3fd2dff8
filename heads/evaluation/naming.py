"""Name heads after the attributes that they serve and oppose beyond noise (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# An attribute counts if the head's accuracy on it leaves 0.5 by both of these: standard errors of
# chance over the rows of the attribute, and an absolute difference.
STANDARD_ERRORS = 2.0
MIN_EDGE = 0.05
# Most attributes of each kind in a title, and the edge from which an opposed one is named.
MAX_SERVED, MAX_OPPOSED = 2, 1
OPPOSED_EDGE = 0.25


def profile(accuracy: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, Any]:
    """Describe one head by the attributes that it serves and opposes, clearest first.

    Args:
        accuracy: Accuracy of the head on its own, by attribute; NaN values are ignored.
        counts: Number of rows behind each accuracy.

    Returns:
        ``{"title", "serves", "opposes"}``.

    >>> profile({"formal": 0.9, "story": 0.1}, {"formal": 64, "story": 64})["title"]
    'formal, not story'
    """
    edge = {name: value - 0.5 for name, value in accuracy.items() if math.isfinite(value)}
    clear = {
        name: value
        for name, value in edge.items()
        if abs(value) > max(MIN_EDGE, STANDARD_ERRORS * 0.5 / math.sqrt(max(counts[name], 1)))
    }
    serves = sorted((name for name in clear if clear[name] > 0), key=lambda n: -clear[n])
    opposes = sorted((name for name in clear if clear[name] < 0), key=lambda n: clear[n])
    return {"title": _title(serves, opposes, edge), "serves": serves, "opposes": opposes}


def _title(serves: Sequence[str], opposes: Sequence[str], edge: Mapping[str, float]) -> str:
    # The runner-up is named only if its edge is at least half of the first.
    named = [name for name in serves[:MAX_SERVED] if edge[name] >= edge[serves[0]] / 2]
    against = [f"not {name}" for name in opposes[:MAX_OPPOSED] if edge[name] <= -OPPOSED_EDGE]
    if not named and not against:
        return "no clear taste"
    return ", ".join([" + ".join(named)] * bool(named) + against)


def profiles(heads: Mapping[str, Any], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The profiles of all heads of one method; ``heads`` is its entry in ``report["heads"]``."""
    accuracy = heads["accuracy"]
    return [
        profile({name: values[k] for name, values in accuracy.items()}, counts)
        for k in range(len(heads["usage"]))
    ]
