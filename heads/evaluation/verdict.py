"""The verdict of a report in sentences, and the warnings that qualify it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import ORACLE, VALIDATED

SMALL_TEST = 30


def standing(item: Mapping[str, Any]) -> str:
    """Classify a paired difference: ``better``, ``worse``, or ``noise`` if its interval has 0.

    >>> standing({"low": 0.01, "high": 0.05}), standing({"low": -0.01, "high": 0.05})
    ('better', 'noise')
    """
    if item["low"] > 0:
        return "better"
    return "worse" if item["high"] < 0 else "noise"


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sum up the paired comparisons of a report, one sentence per reference and outcome.

    Best single heads are left to the table. Methods that are given only the prompt at test time
    are compared with the first reference only: the others may be given the context, and then the
    comparison would not be fair.
    """
    methods = report["methods"]
    accuracy = {name: entry["macro"]["accuracy"] for name, entry in methods.items()}
    first = report["comparisons"][0]["against"] if report["comparisons"] else None
    by_reference: dict[str, dict[str, list[str]]] = {}
    for item in report["comparisons"]:
        name, base = item["method"], item["against"]
        blind = methods[name]["given"] == "prompt" and base != first
        if not blind and not name.endswith((ORACLE, VALIDATED)):
            outcomes = by_reference.setdefault(base, {"better": [], "noise": [], "worse": []})
            outcomes[standing(item)].append(f"{name} {accuracy[name]:.3f}")
    sentences = []
    for base, outcomes in by_reference.items():
        reference = f"{base} ({accuracy[base]:.3f})"
        for outcome, words in (
            ("better", f"Better than {reference} beyond noise"),
            ("noise", f"No different from {reference} beyond noise"),
            ("worse", f"Worse than {reference} beyond noise"),
        ):
            if outcomes[outcome]:
                sentences.append(f"{words}: {', '.join(outcomes[outcome])}.")
    return sentences + _wordings(methods)


def _wordings(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The interval over wordings of every method that reads the context."""
    spans = {name: item["wordings"] for name, item in methods.items() if item["given"] == "context"}
    shown = [f"{n} {span['low']:.3f}-{span['high']:.3f}" for n, span in spans.items() if span]
    if not shown:
        return []
    count = next(span["count"] for span in spans.values() if span)
    return [f"With other wordings than the {count} of the test: {', '.join(shown)}."]


def warnings(report: Mapping[str, Any], account: Mapping[str, Any]) -> list[str]:
    """Warn of properties of the data that limit what the accuracies can show.

    Args:
        report: The report.
        account: Counts of refused rows, shortened sequences and shared prompts, from the store.
    """
    sentences = []
    first = next(iter(report["methods"].values()))
    small = [name for name, cell in first["attributes"].items() if cell["n"] < SMALL_TEST]
    if small:
        sentences.append(
            f"Fewer than {SMALL_TEST} test rows for {', '.join(small)}: wide intervals."
        )
    if account["refused"]:
        sentences.append(
            f"{account['refused']} rows or pairs of the data were refused; the reasons are in the "
            "quarantine file of the store."
        )
    if account["shortened_sequences"]:
        sentences.append(
            f"{account['shortened_sequences']} sequences were longer than the backbone's limit "
            "and were shortened."
        )
    if account["prompt_overlap"]:
        sentences.append(
            f"{account['prompt_overlap']} prompts are in both train and test: the scores are too "
            "good."
        )
    return sentences
