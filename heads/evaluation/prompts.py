"""Router weights of the reader's own prompts, without and with a context (pure).

``report["prompts"]`` is None or ``{"asked", "rows"}``: a fingerprint of the prompts and, in their
order, ``{"prompt", "context", "weights"}``. The weights of a method are ``{"without", "with"}``, K
numbers each; ``with`` is None for a prompt without context, whose ``context`` is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...common.fingerprint import fingerprint
from ...configs.report import ExamplePrompt
from .gallery import excerpt

# The heads with most weight are shown one by one; the others are summed.
SHOWN_HEADS = 4
Weights = dict[str, dict[str, list[float] | None]]
RouteFunction = Callable[[Sequence[ExamplePrompt]], list[Weights]]


def route_prompts(
    known: Mapping[str, Any] | None, prompts: Sequence[ExamplePrompt], route: RouteFunction
) -> Mapping[str, Any] | None:
    """Route prompts, or reuse the weights that a report already has.

    Args:
        known: ``report["prompts"]`` so far.
        prompts: Prompts with their contexts, from the configuration.
        route: Computes the weights of prompts. It is called only if ``known`` is about other
            prompts, because it loads the backbone.

    Returns:
        ``report["prompts"]``; unchanged if ``prompts`` is empty.
    """
    if not prompts:
        return known
    key = fingerprint(list(prompts))
    if known is not None and known["asked"] == key:
        return known
    rows = [
        {
            "prompt": excerpt(prompt.prompt),
            "context": excerpt(prompt.context or ""),
            "weights": weights,
        }
        for prompt, weights in zip(prompts, route(prompts), strict=True)
    ]
    return {"asked": key, "rows": rows}


def panels(
    weights: Mapping[str, Mapping[str, Any]], profiles: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Summarise the router weights of one prompt for a page, one entry per method.

    Args:
        weights: Weights without and with the context, by method.
        profiles: Head profiles by method, from ``naming.profiles``; other methods are left out.

    Returns:
        ``{"method", "moved", "bars", "others"}``: the total variation distance between the weights
        without and with the context (None without one); the heads with most weight in either
        case, by index, as ``{"head", "title", "without", "with"}``; the sums over all other heads,
        or None if there are none.
    """
    return [
        _panel(method, sides["without"], sides["with"], profiles[method])
        for method, sides in weights.items()
        if method in profiles and len(profiles[method]) == len(sides["without"])
    ]


def _panel(
    method: str,
    without_K: Sequence[float],
    with_K: Sequence[float] | None,
    profiles: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    after_K = without_K if with_K is None else with_K
    strongest = sorted(range(len(profiles)), key=lambda k: -max(without_K[k], after_K[k]))
    # A sum over a single head would hide its title and save no line.
    shown = SHOWN_HEADS if len(profiles) > SHOWN_HEADS + 1 else len(profiles)
    named, rest = sorted(strongest[:shown]), strongest[shown:]
    # Total variation distance: the share of the weight that goes to other heads.
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
