"""What a data set holds, in numbers, and what is wrong with it, in sentences."""

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
    """What the embedding needs to know of the pairs of a pass: counts, prompts, repetitions.

    ``counts`` is keyed by (attribute, split), in the order of the data; ``pairs_per_source`` and
    ``duplicates``, the exact repetitions of earlier pairs, by the name of the source. Of a prompt
    and of a pair 16 bytes are kept, so the tally does not grow with the texts.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self.pairs_per_split: Counter[str] = Counter()
        self.pairs_per_source: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self._ids: set[bytes] = set()
        self._prompts: defaultdict[str, Counter[tuple[str, bytes]]] = defaultdict(Counter)

    def add(self, pair: PreferencePair) -> None:
        """Count one more pair."""
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
        """Number of training and test pairs of every attribute."""
        return {
            name or "(none)": {split: self.counts[name, split] for split in ("train", "test")}
            for name in dict.fromkeys(attribute for attribute, _ in self.counts)
        }

    @property
    def prompts_per_split(self) -> Counter[str]:
        """Number of distinct prompts in each split."""
        return Counter({split: len(self._distinct(split)) for split in self._prompts})

    @property
    def prompt_overlap(self) -> int:
        """Number of prompts that occur among training and test rows."""
        return len(self._learnt_from & self._distinct("test"))

    @property
    def leaked(self) -> Counter[str]:
        """Test pairs per source whose prompt is also one of the training rows."""
        leaked: Counter[str] = Counter()
        learnt_from = self._learnt_from
        for (source, prompt), number in self._prompts["test"].items():
            leaked[source] += number * (prompt in learnt_from)
        return leaked

    @property
    def _learnt_from(self) -> set[bytes]:
        return self._distinct("train") | self._distinct("adapt")

    def _distinct(self, split: str) -> set[bytes]:
        return {prompt for _, prompt in self._prompts[split]}

    def require_both_splits(self, *, transfer: bool = False) -> None:
        """Raise ``DataError`` if there is nothing to train on, or an attribute nothing scores.

        With ``transfer`` the attributes of the test rows may be others.
        """
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
        if transfer and self.pairs_per_split["test"]:
            return
        if lacking:
            raise DataError(
                f"no test rows for attribute {', '.join(lacking)}; add test rows (--data.test), "
                "raise data.test_fraction, or name the attributes to use in data.attributes"
            )


def summarise(source: PairSource) -> dict[str, Any]:
    """Counts, overlaps, length percentiles in words, warnings and every refusal of a data set.

    Takes one pass over the source and keeps no text of it; raises what the pass raises.
    """
    tally, words = Tally(), WordCounts()
    contradictions, errors = Contradictions(), Contradictions(strict=True)
    contexts: Counter[str | None] = Counter()
    with_context = 0
    users: set[str] = set()
    for pair in source:
        tally.add(pair)
        contradictions.add(pair)
        errors.add(pair)
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
        "self_contradictions": errors.count,
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
    """What was read of every source, what became of it, and what is wrong with it.

    ``overlong`` counts pairs that the tokenizer found too long, where it has seen them.
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
            "same attribute, wish and user: some of these labels are wrong; all are kept"
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
