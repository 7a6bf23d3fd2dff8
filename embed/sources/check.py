"""What a data set holds, in numbers, and what is wrong with it, in sentences (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from .collection import Collection
from .pair import SAME_TEXT, DataError, PreferencePair

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def summarise(collection: Collection) -> dict[str, Any]:
    """Counts, overlaps, length percentiles in words, warnings and every refusal of a data set."""
    pairs = collection.pairs
    prompts: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        prompts[pair.split].add(pair.prompt_id)
    ids = Counter(pair.pair_id for pair in pairs)
    summary: dict[str, Any] = {
        "rows": collection.rows,
        "pairs": len(pairs),
        "refused": len(collection.refusals),
        "splits": {
            split: {"pairs": sum(p.split == split for p in pairs), "prompts": len(prompts[split])}
            for split in ("train", "test")
        },
        "attributes": _per_attribute(collection),
        "ties": dict(collection.ties),
        "unanimous": collection.unanimous,
        "chosen_equals_rejected": sum(SAME_TEXT in item.reason for item in collection.refusals),
        "duplicates": sum(count - 1 for count in ids.values()),
        "contradictions": _contradictions(pairs),
        "prompt_overlap": prompt_overlap(pairs),
        "with_context": sum(pair.context is not None for pair in pairs),
        "users": len({pair.user for pair in pairs if pair.user is not None}),
        "words": {
            "prompt": _percentiles(sum(len(m.content.split()) for m in p.prompt) for p in pairs),
            "chosen": _percentiles(len(pair.chosen.split()) for pair in pairs),
            "rejected": _percentiles(len(pair.rejected.split()) for pair in pairs),
        },
        "refusals": [asdict(refusal) for refusal in collection.refusals],
    }
    summary["warnings"] = _warnings(summary)
    return summary


def prompt_overlap(pairs: Sequence[PreferencePair]) -> int:
    """Number of prompts that occur in both splits."""
    prompts: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        prompts[pair.split].add(pair.prompt_id)
    return len(prompts["train"] & prompts["test"])


def require_both_splits(pairs: Sequence[PreferencePair]) -> None:
    """Raise ``DataError`` if there is nothing to train on, or an attribute that nothing scores."""
    if not any(pair.split == "train" for pair in pairs):
        raise DataError(
            f"all {len(pairs)} pairs are test rows; give training rows (--data.train), or lower "
            "data.test_fraction"
        )
    counts = Counter((pair.attribute, pair.split) for pair in pairs)
    lacking = [
        f"{attribute or '(none)'} ({number} training rows)"
        for (attribute, split), number in counts.items()
        if split == "train" and not counts[(attribute, "test")]
    ]
    if lacking:
        raise DataError(
            f"no test rows for attribute {', '.join(lacking)}; add test rows (--data.test), raise "
            "data.test_fraction, or name the attributes to use in data.attributes"
        )


def _per_attribute(collection: Collection) -> dict[str, dict[str, int]]:
    names = dict.fromkeys([pair.attribute for pair in collection.pairs] + list(collection.ties))
    counts = Counter((pair.attribute, pair.split) for pair in collection.pairs)
    contexts = Counter(pair.attribute for pair in collection.pairs if pair.context)
    return {
        name or "(none)": {
            "train": counts[(name, "train")],
            "test": counts[(name, "test")],
            "ties": collection.ties[name] if name else 0,
            "contexts": contexts[name],
        }
        for name in names
    }


def _contradictions(pairs: Sequence[PreferencePair]) -> int:
    """Pairs that also occur with the opposite label, whatever their attribute."""
    seen = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs}
    return sum((pair.prompt, pair.rejected, pair.chosen) in seen for pair in pairs)


def _percentiles(values: Iterable[int]) -> dict[str, int]:
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {f"p{percent}": ordered[round(last * percent / 100)] for percent in PERCENTILES}


def _warnings(summary: dict[str, Any]) -> list[str]:
    warnings = []
    if summary["prompt_overlap"]:
        warnings.append(
            f"{summary['prompt_overlap']} prompts occur in both train and test: test scores will "
            "be too good; split by prompt"
        )
    if summary["duplicates"]:
        warnings.append(f"{summary['duplicates']} pairs repeat an earlier one exactly")
    for name, counts in summary["attributes"].items():
        if not counts["test"]:
            warnings.append(f"attribute {name} has no test rows and cannot be scored")
        elif counts["test"] < 30:
            warnings.append(f"attribute {name} has only {counts['test']} test rows")
    without = [name for name, counts in summary["attributes"].items() if not counts["contexts"]]
    if summary["with_context"] and without:
        warnings.append(f"no pair of {', '.join(without)} has a context: stage 2 leaves them out")
    if not summary["with_context"]:
        warnings.append("no pair has a context: stage 2 (method micro) will be left out")
    return warnings
