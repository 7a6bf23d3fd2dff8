"""Test rows that show what a head does: its most characteristic pairs, and how wishes are routed.

Chosen here, with their texts, for ``report.json``; pages only show what is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...cache.pairs import PairTable
from .protocol import Scored, TestSet

PAIRS, WISHES, ROUTES = 3, 2, 12
# Characters of a text that a report keeps.
LONGEST = 2000
# The heads of which mixture are shown: of one that a wish has routed, if there is one.
PREFERRED = ("micro", "micro_kernel", "micro_hyre", "micro_stage1", "static_mixture")


def gallery(table: PairTable, test: TestSet, scored: Mapping[str, Scored]) -> dict[str, Any] | None:
    """Heads of one method with examples and wishes, and routed example rows; None without heads.

    ``{"method", "heads": [{"wishes", "pairs"}], "routes": [...]}``.
    """
    method = shown_method(scored)
    heads = None if method is None else scored[method].heads
    if method is None or heads is None:
        return None
    text = {name: np.asarray(table.text[name], object)[test.table_rows] for name in table.text}
    weights_NxK = np.exp(heads.log_weights_SxNxK.astype(np.float64)).mean(axis=0)
    entries = []
    leads_NxK = leads(heads.delta_NxK)
    for k in range(weights_NxK.shape[1]):
        rows = characteristic(leads_NxK[:, k], test.prompt_N, PAIRS)
        pairs = [_pair(text, test, row, float(leads_NxK[row, k])) for row in rows]
        entries.append(
            {
                "wishes": served_wishes(text["context"].tolist(), weights_NxK[:, k]),
                "pairs": [pair for pair in pairs if pair["preferred"]["text"]],
            }
        )
    return {"method": method, "heads": entries, "routes": _routes(text, test, weights_NxK)}


def shown_method(scored: Mapping[str, Scored]) -> str | None:
    """The mixture whose heads are looked at: several heads, routed by a wish if possible."""
    several = [
        name
        for name, result in scored.items()
        if result.heads is not None and result.heads.delta_NxK.shape[1] > 1
    ]
    return next((name for name in PREFERRED if name in several), next(iter(several), None))


def leads(delta_NxK: np.ndarray) -> np.ndarray:
    """(N, K) how far a head's margin is from the mean of the others', every head at unit scale.

    Positive where it wants the chosen response more than the others do. A single head has no
    others and leads by its margin.
    """
    scale_K = np.sqrt(np.mean(delta_NxK.astype(np.float64) ** 2, axis=0))
    unit_NxK = delta_NxK / np.where(scale_K > 0, scale_K, 1.0)
    count = unit_NxK.shape[1]
    if count == 1:
        return unit_NxK
    others_NxK = (unit_NxK.sum(axis=1, keepdims=True) - unit_NxK) / (count - 1)
    lead_NxK = unit_NxK - others_NxK
    # A head that only shares the others' view more weakly has no view of its own there.
    return np.where(np.sign(lead_NxK) == np.sign(unit_NxK), lead_NxK, 0.0)


def characteristic(lead_N: np.ndarray, prompt_N: np.ndarray, count: int) -> list[int]:
    """Rows with the largest lead either way, each of another prompt, ties in row order."""
    chosen: list[int] = []
    prompts: set[int] = set()
    for row in np.argsort(-np.abs(lead_N), kind="stable"):
        if len(chosen) == count or lead_N[row] == 0:
            break
        if int(prompt_N[row]) not in prompts:
            prompts.add(int(prompt_N[row]))
            chosen.append(int(row))
    return chosen


def served_wishes(wishes: Sequence[str], weight_N: np.ndarray) -> list[dict[str, Any]]:
    """The wishes whose rows give a head the most weight, and more than rows give it on average."""
    names, place_N = np.unique(np.asarray(wishes, object).astype(str), return_inverse=True)
    rows_W = np.bincount(place_N)
    weight_W = np.bincount(place_N, weight_N) / rows_W
    found = [
        {**cut(str(names[w])), "weight": float(weight_W[w]), "n": int(rows_W[w])}
        for w in np.argsort(-weight_W, kind="stable")
        if names[w] and weight_W[w] > weight_N.mean() + 1e-6
    ]
    return found[:WISHES]


def _routes(
    text: Mapping[str, np.ndarray], test: TestSet, weights_NxK: np.ndarray
) -> list[dict[str, Any]]:
    """One row of every attribute, one whose weights are near to the attribute's mean."""
    found, seen = [], set[int]()
    for attribute in range(min(len(test.attributes), ROUTES)):
        rows = np.flatnonzero(test.attribute_N == attribute)
        distance = np.abs(weights_NxK[rows] - weights_NxK[rows].mean(axis=0)).sum(axis=1)
        # Another prompt for every attribute, where there is one among the typical half.
        typical = rows[np.argsort(distance, kind="stable")][: (rows.size + 1) // 2]
        row = next((int(r) for r in typical if int(test.prompt_N[r]) not in seen), int(typical[0]))
        seen.add(int(test.prompt_N[row]))
        found.append(
            {
                "attribute": test.attributes[attribute],
                "wish": cut(text["context"][row]),
                "prompt": cut(spoken(text["prompt"][row])),
                "weights": weights_NxK[row].tolist(),
            }
        )
    return [item for item in found if item["prompt"]["text"]]


def _pair(text: Mapping[str, np.ndarray], test: TestSet, row: int, lead: float) -> dict[str, Any]:
    """A row as the head sees it: what it prefers, and whether the label says the same."""
    agrees = lead > 0
    sides = ("chosen", "rejected") if agrees else ("rejected", "chosen")
    return {
        "attribute": test.attributes[int(test.attribute_N[row])],
        "wish": cut(text["context"][row]),
        "prompt": cut(spoken(text["prompt"][row])),
        "preferred": cut(text[sides[0]][row]),
        "other": cut(text[sides[1]][row]),
        "lead": abs(lead),
        "label_agrees": agrees,
    }


def spoken(messages: str) -> str:
    """A stored prompt as text: the turns of a conversation, with their roles if there are several.

    >>> spoken('[["user", "Hello"]]')
    'Hello'
    """
    try:
        turns = [(str(role), str(content)) for role, content in json.loads(messages)]
    except (ValueError, TypeError):
        return messages
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def cut(text: str) -> dict[str, Any]:
    """The beginning of a text, and how many characters it has."""
    return {"text": text[:LONGEST], "characters": len(text)}
