"""Example rows for the report: the pairs that characterise each head, and routed prompts (pure).

The rows are chosen here and kept in ``report.json`` with their texts; pages only display them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...cache.pairs import PairTable
from .protocol import ScoredMethod, TestSet

PAIRS_PER_HEAD, CONTEXTS_PER_HEAD, MAX_ROUTES = 3, 2, 12
# A report keeps this many characters of a text.
MAX_CHARACTERS = 2000


def gallery(
    table: PairTable,
    test: TestSet,
    scored: Mapping[str, ScoredMethod],
    preferred: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Choose the example rows of a report.

    Args:
        table: Pair table with the texts of the rows.
        test: The test set.
        scored: Scored methods by name.
        preferred: Methods whose heads are shown rather than those of others, the first one first.

    Returns:
        ``{"method", "heads": [{"contexts", "pairs"}], "routes"}``: for every head of the shown
        method the contexts that it serves and its characteristic pairs, and the router weights of
        one typical row per attribute. None if no method has several heads.
    """
    method = shown_method(scored, preferred)
    heads = None if method is None else scored[method].heads
    if method is None or heads is None:
        return None
    text = {name: np.asarray(table.text[name], object)[test.table_rows] for name in table.text}
    weights_NxK = np.exp(heads.log_weights_SxNxK.astype(np.float64)).mean(axis=0)
    entries = []
    leads_NxK = leads(heads.delta_NxK)
    for k in range(weights_NxK.shape[1]):
        rows = characteristic_rows(leads_NxK[:, k], test.prompt_N, PAIRS_PER_HEAD)
        pairs = [_pair(text, test, row, float(leads_NxK[row, k])) for row in rows]
        entries.append(
            {
                "contexts": served_contexts(text["context"].tolist(), weights_NxK[:, k]),
                "pairs": [pair for pair in pairs if pair["preferred"]["text"]],
            }
        )
    return {"method": method, "heads": entries, "routes": _routes(text, test, weights_NxK)}


def shown_method(scored: Mapping[str, ScoredMethod], preferred: Sequence[str] = ()) -> str | None:
    """The method whose heads are shown: one of several heads, if possible a preferred one."""
    several = [
        name
        for name, result in scored.items()
        if result.heads is not None and result.heads.delta_NxK.shape[1] > 1
    ]
    return next((name for name in preferred if name in several), next(iter(several), None))


def leads(delta_NxK: np.ndarray) -> np.ndarray:
    """Lead of every head: its margin minus the mean margin of the other heads, (N, K).

    Positive where the head favours the chosen response more than the others do, and 0 where its
    margin has the opposite sign of the lead. The lead of a single head is its margin.

    Args:
        delta_NxK: Margin of every head on every row.
    """
    # Heads are compared at unit root mean square: the scale of a reward is arbitrary.
    scale_K = np.sqrt(np.mean(delta_NxK.astype(np.float64) ** 2, axis=0))
    unit_NxK = delta_NxK / np.where(scale_K > 0, scale_K, 1.0)
    count = unit_NxK.shape[1]
    if count == 1:
        return unit_NxK
    others_NxK = (unit_NxK.sum(axis=1, keepdims=True) - unit_NxK) / (count - 1)
    lead_NxK = unit_NxK - others_NxK
    # Agreeing with the others, only less strongly, is not a preference of the head's own.
    return np.where(np.sign(lead_NxK) == np.sign(unit_NxK), lead_NxK, 0.0)


def characteristic_rows(lead_N: np.ndarray, prompt_N: np.ndarray, count: int) -> list[int]:
    """The ``count`` rows with the largest absolute lead, at most one per prompt.

    Ties keep the order of the rows; rows without a lead are never chosen.

    >>> characteristic_rows(np.array([0.1, -3.0, 2.0, -2.5]), np.array([0, 1, 2, 1]), 3)
    [1, 2, 0]
    """
    rows: list[int] = []
    prompts: set[int] = set()
    for row in np.argsort(-np.abs(lead_N), kind="stable"):
        if len(rows) == count or lead_N[row] == 0:
            break
        if int(prompt_N[row]) not in prompts:
            prompts.add(int(prompt_N[row]))
            rows.append(int(row))
    return rows


def served_contexts(contexts: Sequence[str], weight_N: np.ndarray) -> list[dict[str, Any]]:
    """The contexts on which the router gives a head the most weight, above its mean weight.

    Args:
        contexts: The context of every row; empty for rows without one.
        weight_N: Router weight of the head on every row.
    """
    names, context_N = np.unique(np.asarray(contexts, object).astype(str), return_inverse=True)
    rows_C = np.bincount(context_N)
    weight_C = np.bincount(context_N, weight_N) / rows_C
    served = [
        {**excerpt(str(names[c])), "weight": float(weight_C[c]), "n": int(rows_C[c])}
        for c in np.argsort(-weight_C, kind="stable")
        if names[c] and weight_C[c] > weight_N.mean() + 1e-6
    ]
    return served[:CONTEXTS_PER_HEAD]


def _routes(
    text: Mapping[str, np.ndarray], test: TestSet, weights_NxK: np.ndarray
) -> list[dict[str, Any]]:
    """One typical row per attribute: its weights are close to the mean of the attribute."""
    routes, seen = [], set[int]()
    for attribute in range(min(len(test.attributes), MAX_ROUTES)):
        rows = np.flatnonzero(test.attribute_N == attribute)
        distance = np.abs(weights_NxK[rows] - weights_NxK[rows].mean(axis=0)).sum(axis=1)
        # Prefer a prompt that no earlier attribute shows, as long as the row is typical enough.
        typical = rows[np.argsort(distance, kind="stable")][: (rows.size + 1) // 2]
        row = next((int(r) for r in typical if int(test.prompt_N[r]) not in seen), int(typical[0]))
        seen.add(int(test.prompt_N[row]))
        routes.append(
            {
                "attribute": test.attributes[attribute],
                "context": excerpt(text["context"][row]),
                "prompt": excerpt(prompt_text(text["prompt"][row])),
                "weights": weights_NxK[row].tolist(),
            }
        )
    return [item for item in routes if item["prompt"]["text"]]


def _pair(text: Mapping[str, np.ndarray], test: TestSet, row: int, lead: float) -> dict[str, Any]:
    """One pair seen by a head: the response it prefers, and whether the label agrees."""
    agrees = lead > 0
    sides = ("chosen", "rejected") if agrees else ("rejected", "chosen")
    return {
        "attribute": test.attributes[int(test.attribute_N[row])],
        "context": excerpt(text["context"][row]),
        "prompt": excerpt(prompt_text(text["prompt"][row])),
        "preferred": excerpt(text[sides[0]][row]),
        "other": excerpt(text[sides[1]][row]),
        "lead": abs(lead),
        "label_agrees": agrees,
    }


def prompt_text(messages: str) -> str:
    """Render a stored prompt: the only turn as it is, several turns with their roles.

    A prompt that is not a JSON list of turns is returned unchanged.

    >>> prompt_text('[["user", "Hello"]]')
    'Hello'
    """
    try:
        turns = [(str(role), str(content)) for role, content in json.loads(messages)]
    except (ValueError, TypeError):
        return messages
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)


def excerpt(text: str) -> dict[str, Any]:
    """The beginning of a text, and the number of characters of the whole.

    >>> excerpt("Be brief.")
    {'text': 'Be brief.', 'characters': 9}
    """
    return {"text": text[:MAX_CHARACTERS], "characters": len(text)}
