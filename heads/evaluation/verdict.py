"""The numbers of a report in words, and the warnings that belong beside them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import ORACLE, VALIDATED

SMALL_TEST = 30


def standing(item: Mapping[str, Any]) -> str:
    """What a paired difference says: ``better``, ``worse``, or ``noise`` if its interval has 0."""
    if item["low"] > 0:
        return "better"
    return "worse" if item["high"] < 0 else "noise"


def verdict(report: Mapping[str, Any]) -> list[str]:
    """What the comparisons say, noise taken seriously; a sentence per outcome and reference.

    Single heads stay in the table. Methods that are told nothing of a row are compared with the
    first reference only: against one that is told the wish they have no chance to begin with.
    """
    methods = report["methods"]
    accuracy = {name: entry["macro"]["accuracy"] for name, entry in methods.items()}
    first = report["comparisons"][0]["against"] if report["comparisons"] else None
    found: dict[str, dict[str, list[str]]] = {}
    for item in report["comparisons"]:
        name, base = item["method"], item["against"]
        blind = methods[name]["told"] == "prompt" and base != first
        if not blind and not name.endswith((ORACLE, VALIDATED)):
            outcomes = found.setdefault(base, {"better": [], "noise": [], "worse": []})
            outcomes[standing(item)].append(f"{name} {accuracy[name]:.3f}")
    sentences = []
    for base, outcomes in found.items():
        said = f"{base} ({accuracy[base]:.3f})"
        for outcome, words in (
            ("better", f"Better than {said} beyond noise"),
            ("noise", f"No different from {said} beyond noise"),
            ("worse", f"Worse than {said} beyond noise"),
        ):
            if outcomes[outcome]:
                sentences.append(f"{words}: {', '.join(outcomes[outcome])}.")
    return sentences + _wordings(methods)


def _wordings(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How far the methods that read the wish depend on the few wordings of the test."""
    spans = {name: item["wordings"] for name, item in methods.items() if item["told"] == "wish"}
    shown = [f"{n} {span['low']:.3f}-{span['high']:.3f}" for n, span in spans.items() if span]
    if not shown:
        return []
    count = next(span["count"] for span in spans.values() if span)
    return [f"With other wordings than the {count} of the test: {', '.join(shown)}."]


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
