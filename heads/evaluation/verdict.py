"""The verdict of a report in sentences, and the warnings that qualify it (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SMALL_TEST = 30
OUTCOMES = {
    "better": "Better than {} beyond noise",
    "noise": "No different from {} beyond noise",
    "worse": "Worse than {} beyond noise",
    "few": "Too few {units} to compare with {}",
}


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sum up the paired comparisons of a report, one sentence per reference and outcome.

    The comparisons are one family: what a sentence says holds with all others together.
    """
    accuracy = {name: entry["macro"]["accuracy"] for name, entry in report["methods"].items()}
    outcomes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in report["comparisons"]:
        outcomes.setdefault((item["against"], item["standing"]), []).append(item)
    sentences = []
    for base in dict.fromkeys(against for against, _ in outcomes):
        for outcome, words in OUTCOMES.items():
            items = outcomes.get((base, outcome), [])
            if items:
                start = words.format(f"{base} ({accuracy[base]:.3f})", units=_units(items))
                names = [f"{item['method']} {accuracy[item['method']]:.3f}" for item in items]
                sentences.append(f"{start}: {', '.join(names)}.")
    return sentences


def _units(items: Sequence[Mapping[str, Any]]) -> str:
    kinds = dict.fromkeys(kind for item in items for kind in item["units"])
    return " or ".join(kinds)


def warnings(report: Mapping[str, Any], account: Mapping[str, Any]) -> list[str]:
    """Warn of properties of the data that limit what the accuracies can show.

    Args:
        report: The report.
        account: Counts of refused rows, shortened sequences and shared prompts, from the store.
    """
    sentences = []
    methods = list(report["methods"].values())
    first = methods[0]
    small = [name for name, cell in first["attributes"].items() if cell["n"] < SMALL_TEST]
    if small:
        sentences.append(
            f"Fewer than {SMALL_TEST} test rows for {', '.join(small)}: wide intervals."
        )
    if any(entry["given"] == "context" and "wordings" not in entry["units"] for entry in methods):
        sentences.append(
            "Some attribute has a single wording of its context in the test: the intervals of "
            "methods that read contexts do not say how they do with other wordings."
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
