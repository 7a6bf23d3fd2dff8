"""Prompts of a reader's own in a report: router weights without and with a wish (pure).

``report["prompts"]`` is None, or ``{"asked", "rows"}``: a fingerprint of what was asked and, in
that order, ``{"prompt", "wish", "weights"}``. The weights of a method are ``{"without", "with"}``,
K numbers each; ``with`` is None where there is no wish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...common.fingerprint import fingerprint
from ...configs.report import ExamplePrompt
from .gallery import cut

# Heads of a method that are shown one by one; the rest is a sum.
NAMED = 4
Weights = dict[str, dict[str, list[float] | None]]
Route = Callable[[Sequence[ExamplePrompt]], list[Weights]]


def routed(
    known: Mapping[str, Any] | None, asked: Sequence[ExamplePrompt], route: Route
) -> Mapping[str, Any] | None:
    """What a report keeps: ``known`` if nothing else is asked, so that no backbone is loaded."""
    if not asked:
        return known
    key = fingerprint(list(asked))
    if known is not None and known["asked"] == key:
        return known
    rows = [
        {"prompt": cut(one.prompt), "wish": cut(one.context or ""), "weights": weights}
        for one, weights in zip(asked, route(asked), strict=True)
    ]
    return {"asked": key, "rows": rows}


def panels(
    weights: Mapping[str, Mapping[str, Any]], profiles: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Per method with known heads what a page shows of one prompt.

    ``{"method", "moved", "bars", "others"}``: the share of the weight that the wish moves, None
    without one; the heads with the most weight in either case, in the order of their numbers, as
    ``{"head", "title", "without", "with"}``; and the same of all others together, if there are any.
    """
    return [
        _panel(method, found["without"], found["with"], profiles[method])
        for method, found in weights.items()
        if method in profiles and len(profiles[method]) == len(found["without"])
    ]


def _panel(
    method: str,
    without_K: Sequence[float],
    with_K: Sequence[float] | None,
    profiles: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    after_K = without_K if with_K is None else with_K
    strongest = sorted(range(len(profiles)), key=lambda k: -max(without_K[k], after_K[k]))
    # A sum of one head would hide its name and save no line.
    many = NAMED if len(profiles) > NAMED + 1 else len(profiles)
    named, rest = sorted(strongest[:many]), strongest[many:]
    moved = sum(abs(after - before) for after, before in zip(after_K, without_K, strict=True)) / 2

    def both(heads: Sequence[int]) -> dict[str, float | None]:
        return {
            "without": sum(without_K[k] for k in heads),
            "with": None if with_K is None else sum(with_K[k] for k in heads),
        }

    return {
        "method": method,
        "moved": None if with_K is None else moved,
        "bars": [{"head": k, "title": profiles[k]["title"], **both([k])} for k in named],
        "others": {"count": len(rest), **both(rest)} if rest else None,
    }
