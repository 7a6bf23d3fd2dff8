"""Statistics over all pairs of a data set, kept as digests and numbers; no text stays in memory."""

from __future__ import annotations

from array import array
from collections import Counter

from .pair import PreferencePair, content_id

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


class Contradictions:
    """Counts pairs that also occur with the opposite label.

    By default they may differ in attribute, context and user: disagreement that a mixture is for.
    With ``strict`` all three must agree, so one of the two labels is wrong. Takes about 200 bytes a
    pair.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.count = 0
        self._strict = strict
        # Keyed by prompt and both responses in sorted order: pairs that chose the first of the two
        # responses, and pairs that chose the second.
        self._labels: tuple[Counter[bytes], Counter[bytes]] = (Counter(), Counter())

    def add(self, pair: PreferencePair) -> None:
        """Count one more pair."""
        texts = sorted((pair.chosen, pair.rejected))
        judge = [pair.attribute, pair.context, pair.user] if self._strict else []
        prompt = [list(turn) for turn in pair.prompt]
        comparison = bytes.fromhex(content_id(prompt, *texts, *judge))
        label = texts.index(pair.chosen)
        same, opposite = self._labels[label], self._labels[1 - label]
        if comparison in opposite:
            # The first pair with this label also makes contradictions of all with the other label.
            self.count += 1 if comparison in same else 1 + opposite[comparison]
        same[comparison] += 1


class WordCounts:
    """Lengths in words of prompts (all turns) and of both responses; takes 12 bytes a pair."""

    def __init__(self) -> None:
        self._counts = {name: array("I") for name in ("prompt", "chosen", "rejected")}

    def add(self, pair: PreferencePair) -> None:
        """Count the words of one more pair."""
        prompt = sum(len(turn.content.split()) for turn in pair.prompt)
        self._counts["prompt"].append(prompt)
        self._counts["chosen"].append(len(pair.chosen.split()))
        self._counts["rejected"].append(len(pair.rejected.split()))

    def percentiles(self) -> dict[str, dict[str, int]]:
        """``{text: {"p0": words, ..., "p100": words}}``; the inner mappings may be empty."""
        return {name: _percentiles(counts) for name, counts in self._counts.items()}


def _percentiles(counts: array[int]) -> dict[str, int]:
    ordered = sorted(counts)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {f"p{percent}": ordered[round(last * percent / 100)] for percent in PERCENTILES}
