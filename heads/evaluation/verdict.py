"""The numbers of a report in words, and the warnings that belong beside them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL_TEST = 30


def verdict(report: Mapping[str, Any]) -> list[str]:
    """What the comparison says, method by method against the first one, noise taken seriously."""
    methods = report["methods"]
    base = next(iter(methods))
    sentences = []
    for item in report["comparisons"]:
        if item["against"] != base:
            continue
        reached = methods[item["method"]]["macro"]["accuracy"]
        bounds = f"({item['low']:+.3f} to {item['high']:+.3f})"
        if item["low"] > 0:
            found = f"is better than {base} by {item['difference']:.3f} {bounds}"
        elif item["high"] < 0:
            found = f"is worse than {base} by {-item['difference']:.3f} {bounds}"
        else:
            found = f"differs from {base} by no more than noise: {item['difference']:+.3f} {bounds}"
        sentences.append(f"{item['method']} reaches {reached:.3f} and {found}.")
    return sentences


def warnings(report: Mapping[str, Any], account: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    first = next(iter(report["methods"].values()))
    small = [name for name, cell in first["attributes"].items() if cell["n"] < SMALL_TEST]
    if small:
        found.append(f"Fewer than {SMALL_TEST} test rows for {', '.join(small)}: wide intervals.")
    if account["refused"]:
        found.append(
            f"{account['refused']} rows or pairs of the data were refused; the reasons are in the "
            "quarantine file of the store."
        )
    if account["shortened_sequences"]:
        found.append(
            f"{account['shortened_sequences']} sequences were longer than the backbone's limit "
            "and were shortened."
        )
    if account["prompt_overlap"]:
        found.append(
            f"{account['prompt_overlap']} prompts are in both train and test: the scores are too "
            "good."
        )
    return found
