"""From embedded sequences back to pairs: the pair table, and the quarantine of what was refused."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable, PairWriter
from ..cache.reader import FeatureStore, KeyIndex
from ..cache.schema import StoreError, commit_file
from .plan import Plan
from .sources import PairSource
from .sources.check import Tally, per_source
from .sources.pair import DataError, PreferencePair, Refusal
from .tokenize import OVERLONG

BLOCK = 4096


class PairFacts:
    """The numbers of the pairs of a table, gathered pair by pair."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._rows = array("q")
        self._margins = array("f")
        self._ratings: dict[str, array[float]] = defaultdict(lambda: array("f"))

    def add(self, pair: PreferencePair) -> None:
        """The next pair."""
        for name, chosen, rejected in pair.ratings:
            column = self._ratings[name]
            column.extend([np.nan] * (2 * len(self._rows) - len(column)))
            column.extend((chosen, rejected))
        self._rows.append(pair.row)
        self._margins.append(np.nan if pair.margin is None else pair.margin)
        self.tally.add(pair)

    @property
    def source_row(self) -> np.ndarray:
        """(N,) rows of the input file."""
        return np.array(self._rows, np.int64)

    @property
    def margin(self) -> np.ndarray:
        """(N,) rating differences, NaN where there is none."""
        return np.array(self._margins, np.float32)

    @property
    def ratings(self) -> dict[str, np.ndarray]:
        """(N, 2) ratings of chosen and rejected per attribute, NaN where missing."""
        columns = {}
        for name, column in self._ratings.items():
            missing = [np.nan] * (2 * len(self._rows) - len(column))
            columns[name] = np.array([*column, *missing], np.float32).reshape(-1, 2)
        return columns


def tabulate(
    store: Path,
    plan: Plan,
    source: PairSource,
    request: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the pair table and the quarantine file of a plan whose shards are all in the manifest.

    Returns the account of the data set. Raises ``DataError`` if the data changed since the plan.
    """
    facts, refused, overlong = PairFacts(), list[Refusal](), list[str]()
    with PairWriter(store, plan.facts.name) as writer:
        for block in _blocks(source, plan, refused, overlong):
            for pair in block:
                facts.add(pair)
            writer.add_text(_text_columns(block))
        account = {
            "rows": source.account.rows,
            "pairs": plan.facts.pairs,
            "refused": len(source.account.refusals) + len(refused),
            "refused_by_tokenizer": len(refused),
            "shortened_sequences": plan.facts.shortened,
            "ties": dict(source.account.ties),
            "pairs_per_split": dict(facts.tally.pairs_per_split),
            "attributes": facts.tally.per_attribute,
            "prompt_overlap": facts.tally.prompt_overlap,
            "left_out": dict(source.account.left_out),
            "unanimous": source.account.unanimous,
            "sources": per_source(source.account, facts.tally, Counter(overlong)),
            "upstream": [asdict(table) for table in source.account.upstream],
        }
        places = {name: column[plan.keep] for name, column in plan.columns.items()}
        table = PairTable(
            name=plan.facts.name,
            request=request,
            settings=settings,
            rows=_store_rows(store, plan, places),
            text={},
            source_row=facts.source_row,
            pool=np.asarray(plan.pool[plan.keep]),
            margin=facts.margin,
            tokens=_token_counts(plan, places),
            account=account,
            ratings=facts.ratings,
        )
        write_quarantine(store, plan.facts.name, [*source.account.refusals, *refused])
        writer.finish(table)
    return account


def write_quarantine(store: Path, name: str, refusals: Sequence[Refusal]) -> Path:
    """Write every refusal as one JSON line; an empty file says that nothing was refused."""
    path = store / "quarantine" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    lines = [json.dumps(asdict(refusal), ensure_ascii=True) + "\n" for refusal in refusals]
    temporary.write_text("".join(lines), "utf-8")
    commit_file(temporary, path)
    return path


def _blocks(
    source: PairSource, plan: Plan, refused: list[Refusal], overlong: list[str]
) -> Iterator[list[PreferencePair]]:
    """The pairs that the plan keeps, in blocks; the others become refusals.

    ``overlong`` gets the source of each that is too long.
    """
    block: list[PreferencePair] = []
    seen = 0
    for place, pair in enumerate(source):
        seen = place + 1
        if seen > len(plan.keep):
            break
        if not plan.keep[place]:
            refused.append(_refusal(plan, place, pair))
            overlong += [pair.source] * refused[-1].reason.startswith(OVERLONG)
            continue
        block.append(pair)
        if len(block) == BLOCK:
            yield block
            block = []
    if seen != len(plan.keep):
        raise DataError(
            f"the data changed while they were embedded: {len(plan.keep)} pairs when planned, "
            "another number now; run the same command again"
        )
    yield block


def _refusal(plan: Plan, place: int, pair: PreferencePair) -> Refusal:
    name, reason = next(
        (name, plan.refusals[int(column[place])])
        for name, column in plan.columns.items()
        if int(column[place]) in plan.refusals
    )
    return Refusal(pair.row, name, reason)


def _store_rows(store: Path, plan: Plan, places: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Global rows of the store for every planned sequence."""
    found = KeyIndex(FeatureStore(store).keys()).rows(plan.keys)
    missing = int((found == NO_ROW).sum())
    if missing:
        raise StoreError(f"{store}: {missing} sequences are missing; run micro-rm embed again")
    return {name: _behind(column, plan.sequence_of, found) for name, column in places.items()}


def _token_counts(plan: Plan, places: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tokens of the longest sequence of each response, over the views."""
    counts = {}
    for role in ("chosen", "rejected"):
        columns = [column for name, column in places.items() if name.endswith(role)]
        lengths = [_behind(column, plan.sequence_of, plan.lengths) for column in columns]
        counts[role] = np.maximum(0, np.max(lengths, axis=0))
    return counts


def _behind(places: np.ndarray, sequence_of: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of sequences for pairs' conversations, ``NO_ROW`` where a pair has none."""
    out = np.full(len(places), NO_ROW, np.int64)
    some = places != NO_ROW
    out[some] = values[sequence_of[places[some]]]
    return out


def _text_columns(pairs: Sequence[PreferencePair]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
    for pair in pairs:
        columns["prompt"].append(json.dumps(pair.prompt, ensure_ascii=False))
        for name in TEXT_COLUMNS:
            if name != "prompt":
                columns[name].append(getattr(pair, name) or "")
    return columns
