"""From embedded sequences back to pairs: write the pair table and the quarantine."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.failed import failed_keys
from ..cache.manifest import read_manifest
from ..cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable, PairWriter
from ..cache.reader import FeatureStore, KeyIndex
from ..cache.schema import StoreError
from .plan import Plan
from .quarantine import write_quarantine
from .sources import PairSource
from .sources.check import Tally, per_source
from .sources.corrections import read_corrections
from .sources.pair import DataError, PreferencePair, Refusal
from .tokenize import OVERLONG

BLOCK = 4096
FAILED = "the backbone gives NaN or infinity for this sequence"


class PairColumns:
    """Accumulates the numeric columns of a pair table, pair by pair."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._rows = array("q")
        self._margins = array("f")
        self._ratings: dict[str, array[float]] = defaultdict(lambda: array("f"))

    def add(self, pair: PreferencePair) -> None:
        """Append a pair."""
        for name, chosen, rejected in pair.ratings:
            column = self._ratings[name]
            # Pairs since the last one with this attribute have no rating for it.
            column.extend([np.nan] * (2 * len(self._rows) - len(column)))
            column.extend((chosen, rejected))
        self._rows.append(pair.row)
        self._margins.append(np.nan if pair.margin is None else pair.margin)
        self.tally.add(pair)

    @property
    def source_row(self) -> np.ndarray:
        """(N,) row of each pair in its input file."""
        return np.array(self._rows, np.int64)

    @property
    def margin(self) -> np.ndarray:
        """(N,) rating margins (chosen minus rejected), NaN where a pair has none."""
        return np.array(self._margins, np.float32)

    @property
    def ratings(self) -> dict[str, np.ndarray]:
        """(N, 2) ratings of chosen and rejected per attribute, NaN where a pair has none."""
        columns = {}
        for name, column in self._ratings.items():
            missing = [np.nan] * (2 * len(self._rows) - len(column))
            columns[name] = np.array([*column, *missing], np.float32).reshape(-1, 2)
        return columns


def write_pair_table(
    store: Path,
    plan: Plan,
    source: PairSource,
    request: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the pair table and the quarantine file of a job.

    Args:
        store: Directory of the store; its manifest lists all shards of the plan.
        plan: The plan of the job.
        source: The pairs, the same as when the plan was made.
        request: Identifies the inputs.
        settings: Settings to record in the table.

    Returns:
        The account of the data set: counts of rows, pairs and refusals, as JSON.

    Raises:
        DataError: The data changed since the plan, or no pair is left.
        StoreError: Vectors are missing from the store.
    """
    facts, refused, overlong = PairColumns(), list[Refusal](), list[str]()
    rows, failed = _locate(store, plan)
    keep = _complete_pairs(plan, failed)
    with PairWriter(store, plan.facts.name) as writer:
        for block in _blocks(source, plan, keep, failed, refused, overlong):
            for pair in block:
                facts.add(pair)
            writer.add_text(_text_columns(block))
        account = {
            "rows": source.account.rows,
            "pairs": int(keep.sum()),
            "refused": len(source.account.refusals) + len(refused),
            "refused_by_tokenizer": len(plan.keep) - plan.facts.pairs,
            "failed_sequences": len(failed),
            "failed_pairs": plan.facts.pairs - int(keep.sum()),
            "corrected_rows": len(source.account.corrected),
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
        columns = {name: column[keep] for name, column in plan.columns.items()}
        table = PairTable(
            name=plan.facts.name,
            request=request,
            settings=settings,
            rows={
                name: _look_up(column, plan.sequence_of, rows) for name, column in columns.items()
            },
            layout=read_manifest(store).layout(),
            text={},
            source_row=facts.source_row,
            pool=np.asarray(plan.pool[keep]),
            margin=facts.margin,
            tokens=_token_counts(plan, columns),
            account=account,
            ratings=facts.ratings,
        )
        corrections = read_corrections(source.config.corrections)
        refusals = [*source.account.refusals, *refused]
        write_quarantine(store, plan.facts.name, refusals, corrections)
        writer.finish(table)
    return account


def _blocks(
    source: PairSource,
    plan: Plan,
    keep: np.ndarray,
    failed: np.ndarray,
    refused: list[Refusal],
    overlong: list[str],
) -> Iterator[list[PreferencePair]]:
    """Yield the pairs to ``keep`` in blocks; the others are appended to ``refused``.

    For each pair that is too long, its source is appended to ``overlong``.
    """
    block: list[PreferencePair] = []
    seen = 0
    for index, pair in enumerate(source):
        seen = index + 1
        if seen > len(plan.keep):
            break
        if not keep[index]:
            refused.append(_refusal(plan, failed, index, pair))
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


def _refusal(plan: Plan, failed: np.ndarray, index: int, pair: PreferencePair) -> Refusal:
    """Why a pair is not in the table: a refused conversation, or one without a finite vector."""
    for name, column in plan.columns.items():
        reason = plan.refusals.get(int(column[index]))
        if reason is not None:
            return Refusal(pair.row, name, reason, pair.file)
    name = next(
        name
        for name, column in plan.columns.items()
        if column[index] != NO_ROW and plan.sequence_of[column[index]] in failed
    )
    return Refusal(pair.row, name, FAILED, pair.file)


def _locate(store: Path, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(n,) store row of every sequence, and the indices of those that the backbone failed at."""
    rows = KeyIndex(FeatureStore(store).keys()).rows(plan.keys)
    missing = np.flatnonzero(rows == NO_ROW)
    failed = missing[np.isin(plan.keys[missing], failed_keys(store))] if missing.size else missing
    lost = missing.size - failed.size
    if lost:
        raise StoreError(f"{store}: {lost} sequences are missing; run micro-rm embed again")
    return rows, failed


def _complete_pairs(plan: Plan, failed: np.ndarray) -> np.ndarray:
    """(N,) mask of the pairs with vectors for all sequences; ``DataError`` if there are none."""
    keep = np.array(plan.keep)
    conversations = np.flatnonzero(np.isin(plan.sequence_of, failed))
    for column in plan.columns.values():
        keep &= ~np.isin(column, conversations)
    if not keep.any():
        raise DataError(f"no pair is left: {FAILED} of every one; try backbone.dtype=float32")
    return keep


def _token_counts(plan: Plan, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(N,) tokens of each response's longest sequence over the views, by role."""
    counts = {}
    for role in ("chosen", "rejected"):
        lengths = [
            _look_up(column, plan.sequence_of, plan.lengths)
            for name, column in columns.items()
            if name.endswith(role)
        ]
        counts[role] = np.maximum(0, np.max(lengths, axis=0))
    return counts


def _look_up(conversations: np.ndarray, sequence_of: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) value of the sequence of each pair's conversation; ``NO_ROW`` where it has none.

    ``conversations`` (N,) may contain ``NO_ROW``; ``values`` (n,) are those of the sequences.
    """
    out = np.full(len(conversations), NO_ROW, np.int64)
    present = conversations != NO_ROW
    out[present] = values[sequence_of[conversations[present]]]
    return out


def _text_columns(pairs: Sequence[PreferencePair]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
    for pair in pairs:
        columns["prompt"].append(json.dumps(pair.prompt, ensure_ascii=False))
        for name in TEXT_COLUMNS:
            if name != "prompt":
                columns[name].append(getattr(pair, name) or "")
    return columns
