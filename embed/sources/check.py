"""What a data set holds, in numbers, and what is wrong with it, in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Any

from . import PairSource
from .facts import Repetitions, WordCounts
from .pair import SAME_TEXT, DataError, PreferencePair


class Tally:
    """What the embedding needs to know of the pairs of a pass: counts and prompts per split.

    ``counts`` is keyed by (attribute, split), in the order of the data. Of a prompt 16 bytes are
    kept, so the tally does not grow with the texts.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self.pairs_per_split: Counter[str] = Counter()
        self._prompts: defaultdict[str, set[bytes]] = defaultdict(set)

    def add(self, pair: PreferencePair) -> None:
        """Count one more pair."""
        self.counts[(pair.attribute, pair.split)] += 1
        self.pairs_per_split[pair.split] += 1
        self._prompts[pair.split].add(bytes.fromhex(pair.prompt_id))

    @property
    def prompts_per_split(self) -> Counter[str]:
        """Number of distinct prompts in each split."""
        return Counter({split: len(prompts) for split, prompts in self._prompts.items()})

    @property
    def prompt_overlap(self) -> int:
        """Number of prompts that occur in both splits."""
        return len(self._prompts["train"] & self._prompts["test"])

    def require_both_splits(self) -> None:
        """Raise ``DataError`` if there is nothing to train on, or an attribute nothing scores."""
        if not self.pairs_per_split["train"]:
            raise DataError(
                f"all {self.pairs_per_split.total()} pairs are test rows; give training rows "
                "(--data.train), or lower data.test_fraction"
            )
        lacking = [
            f"{attribute or '(none)'} ({number} training rows)"
            for (attribute, split), number in self.counts.items()
            if split == "train" and not self.counts[(attribute, "test")]
        ]
        if lacking:
            raise DataError(
                f"no test rows for attribute {', '.join(lacking)}; add test rows (--data.test), "
                "raise data.test_fraction, or name the attributes to use in data.attributes"
            )


def summarise(source: PairSource) -> dict[str, Any]:
    """Counts, overlaps, length percentiles in words, warnings and every refusal of a data set.

    Takes one pass over the source and keeps no text of it; raises what the pass raises.
    """
    tally, repetitions, words = Tally(), Repetitions(), WordCounts()
    contexts: Counter[str | None] = Counter()
    with_context = 0
    users: set[str] = set()
    for pair in source:
        tally.add(pair)
        repetitions.add(pair)
        words.add(pair)
        contexts[pair.attribute] += bool(pair.context)
        with_context += pair.context is not None
        if pair.user is not None:
            users.add(pair.user)
    account = source.account
    prompts = tally.prompts_per_split
    summary: dict[str, Any] = {
        "rows": account.rows,
        "pairs": account.pairs,
        "refused": len(account.refusals),
        "splits": {
            split: {"pairs": tally.pairs_per_split[split], "prompts": prompts[split]}
            for split in ("train", "test")
        },
        "attributes": _per_attribute(tally, account.ties, contexts),
        "ties": dict(account.ties),
        "unanimous": account.unanimous,
        "chosen_equals_rejected": sum(SAME_TEXT in item.reason for item in account.refusals),
        "duplicates": repetitions.duplicates,
        "contradictions": repetitions.contradictions,
        "prompt_overlap": tally.prompt_overlap,
        "with_context": with_context,
        "users": len(users),
        "words": words.percentiles(),
        "refusals": [asdict(refusal) for refusal in account.refusals],
    }
    summary["warnings"] = _warnings(summary)
    return summary


def _per_attribute(
    tally: Tally, ties: Counter[str], contexts: Counter[str | None]
) -> dict[str, dict[str, int]]:
    names = dict.fromkeys([*(attribute for attribute, _ in tally.counts), *ties])
    return {
        name or "(none)": {
            "train": tally.counts[(name, "train")],
            "test": tally.counts[(name, "test")],
            "ties": ties[name] if name else 0,
            "contexts": contexts[name],
        }
        for name in names
    }


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
