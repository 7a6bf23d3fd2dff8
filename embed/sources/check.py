"""Summarise a data set: counts, overlaps, lengths, and warnings in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from . import PairSource, licences
from .account import Account
from .facts import Contradictions, WordCounts
from .pair import SAME_TEXT, DataError, PreferencePair


class Tally:
    """Counts over the pairs of one pass, and the ids of its prompts and pairs.

    Attributes:
        counts: Pairs by (attribute, split), in the order of the data.
        pairs_per_split: Pairs by split.
        pairs_per_source: Pairs by source.
        duplicates: Exact repetitions of earlier pairs, by source.

    An id has 16 bytes, so the size of a tally does not depend on the lengths of the texts.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self.pairs_per_split: Counter[str] = Counter()
        self.pairs_per_source: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self._ids: set[bytes] = set()
        self._prompts: defaultdict[str, Counter[tuple[str, bytes]]] = defaultdict(Counter)

    def add(self, pair: PreferencePair) -> None:
        """Count a pair."""
        self.counts[(pair.attribute, pair.split)] += 1
        self.pairs_per_split[pair.split] += 1
        self.pairs_per_source[pair.source] += 1
        pair_id = bytes.fromhex(pair.pair_id)
        if pair_id in self._ids:
            self.duplicates[pair.source] += 1
        self._ids.add(pair_id)
        self._prompts[pair.split][pair.source, bytes.fromhex(pair.prompt_id)] += 1

    @property
    def per_attribute(self) -> dict[str, dict[str, int]]:
        """Number of training and test pairs per attribute."""
        return {
            name or "(none)": {split: self.counts[name, split] for split in ("train", "test")}
            for name in dict.fromkeys(attribute for attribute, _ in self.counts)
        }

    @property
    def prompts_per_split(self) -> Counter[str]:
        """Number of distinct prompts in each split."""
        return Counter({split: len(self._prompt_ids(split)) for split in self._prompts})

    @property
    def prompt_overlap(self) -> int:
        """Number of prompts that occur in both training and test rows."""
        return len(self._training_prompts & self._prompt_ids("test"))

    @property
    def leaked(self) -> Counter[str]:
        """Number of test pairs whose prompt also occurs in training rows, by source."""
        leaked: Counter[str] = Counter()
        training_prompts = self._training_prompts
        for (source, prompt), number in self._prompts["test"].items():
            leaked[source] += number * (prompt in training_prompts)
        return leaked

    @property
    def _training_prompts(self) -> set[bytes]:
        return self._prompt_ids("train") | self._prompt_ids("adapt")

    def _prompt_ids(self, split: str) -> set[bytes]:
        return {prompt for _, prompt in self._prompts[split]}

    def require_both_splits(self, *, transfer: bool = False) -> None:
        """Raise ``DataError`` without training rows, or if a trained attribute has no test rows.

        With ``transfer`` the test rows may have other attributes than the training rows.
        """
        if not self.pairs_per_split["train"]:
            raise DataError(
                f"all {self.pairs_per_split.total()} pairs are test rows; give training rows "
                "(--data.train), or lower data.test_fraction"
            )
        untested = [
            f"{attribute or '(none)'} ({number} training rows)"
            for (attribute, split), number in self.counts.items()
            if split == "train" and not self.counts[(attribute, "test")]
        ]
        if transfer and self.pairs_per_split["test"]:
            return
        if untested:
            raise DataError(
                f"no test rows for attribute {', '.join(untested)}; add test rows (--data.test), "
                "raise data.test_fraction, or name the attributes to use in data.attributes"
            )


def summarise(source: PairSource) -> dict[str, Any]:
    """Summarise a data set: counts, overlaps, percentiles of lengths, warnings and all refusals.

    Takes one pass over the source and keeps no text. Raises what the pass raises.
    """
    tally, words = Tally(), WordCounts()
    contradictions, self_contradictions = Contradictions(), Contradictions(strict=True)
    contexts: Counter[str | None] = Counter()
    with_context = 0
    users: set[str] = set()
    for pair in source:
        tally.add(pair)
        contradictions.add(pair)
        self_contradictions.add(pair)
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
        "left_out": dict(account.left_out),
        "sources": per_source(account, tally),
        "licences": licences(source.config),
        "upstream": [asdict(table) for table in account.upstream],
        "chosen_equals_rejected": sum(SAME_TEXT in item.reason for item in account.refusals),
        "duplicates": tally.duplicates.total(),
        "contradictions": contradictions.count,
        "self_contradictions": self_contradictions.count,
        "prompt_overlap": tally.prompt_overlap,
        "with_context": with_context,
        "users": len(users),
        "words": words.percentiles(),
        "refusals": [asdict(refusal) for refusal in account.refusals],
    }
    summary["warnings"] = _warnings(summary)
    return summary


def per_source(
    account: Account, tally: Tally, overlong: Mapping[str, int] | None = None
) -> dict[str, dict[str, int]]:
    """Counts of rows, pairs, exclusions and leaks per source.

    ``overlong`` has the pairs per source that are too long in tokens, if they were tokenized.
    """
    accounts = account.sources or dict.fromkeys(tally.pairs_per_source, account)
    leaked = tally.leaked
    return {
        name: {
            "rows": part.rows,
            "pairs": tally.pairs_per_source[name],
            "refused": len(part.refusals),
            "tied": part.ties.total(),
            "left_out": part.left_out.total() + part.unanimous,
            "duplicated": tally.duplicates[name],
            "leaked": leaked[name],
        }
        | ({} if overlong is None else {"overlong": overlong.get(name, 0)})
        for name, part in accounts.items()
    }


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
    for table in summary["upstream"]:
        if table["expected"] is not None and table["found"] != table["expected"]:
            warnings.append(
                f"{table['where']}: {table['found']:,} rows, expected {table['expected']:,}: "
                "a part of the data, or upstream has changed"
            )
    if summary["duplicates"]:
        warnings.append(f"{summary['duplicates']} pairs repeat an earlier one exactly")
    if summary["self_contradictions"]:
        warnings.append(
            f"{summary['self_contradictions']} pairs are judged the other way as well with the "
            "same attribute, context and user: some of these labels are wrong; all are kept"
        )
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
