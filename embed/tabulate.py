"""From embedded sequences back to pairs: the pair table, and the quarantine of what was refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable
from ..cache.reader import FeatureStore, KeyIndex
from ..cache.schema import StoreError, commit_file
from .extract import Tokenized
from .sequences import SequencePlan
from .sources.check import prompt_overlap
from .sources.collection import Collection
from .sources.pair import DataError, PreferencePair, Refusal


@dataclass(frozen=True)
class Embeddable:
    """The pairs whose every sequence can be embedded, and those sequences.

    ``index`` is the plan's index restricted to these pairs.
    """

    pairs: list[PreferencePair]
    pool: np.ndarray
    index: dict[str, np.ndarray]
    sequences: dict[bytes, np.ndarray]
    refusals: list[Refusal]


def select_embeddable(
    collection: Collection, pool: np.ndarray, plan: SequencePlan, tokens: Tokenized
) -> Embeddable:
    """Leave out the pairs with a sequence that was refused; ``DataError`` if none is left."""
    keep = np.ones(len(collection.pairs), bool)
    refusals: list[Refusal] = []
    for name, places in plan.index.items():
        for row in np.flatnonzero(keep & (places != NO_ROW)):
            reason = tokens.refusals.get(int(places[row]))
            if reason is not None:
                keep[row] = False
                refusals.append(Refusal(collection.pairs[row].row, name, reason))
    if not keep.any():
        raise DataError(
            f"no pair is left after tokenisation (row {refusals[0].row}: {refusals[0].reason}); "
            "raise backbone.max_length or set backbone.overlong to truncate_prompt"
        )
    index = {name: places[keep] for name, places in plan.index.items()}
    used = np.unique(np.concatenate(list(index.values())))
    keys = [key for place in used if place != NO_ROW and (key := tokens.keys[place]) is not None]
    return Embeddable(
        pairs=[pair for pair, use in zip(collection.pairs, keep, strict=True) if use],
        pool=pool[keep],
        index=index,
        sequences={key: tokens.sequences[key] for key in keys},
        refusals=refusals,
    )


def make_pair_table(
    store: Path,
    name: str,
    request: str,
    settings: Mapping[str, Any],
    collection: Collection,
    kept: Embeddable,
    tokens: Tokenized,
) -> PairTable:
    """Resolve every planned sequence to its global row in the store."""
    used = np.unique(np.concatenate(list(kept.index.values())))
    used = used[used != NO_ROW]
    found = KeyIndex(FeatureStore(store).keys()).rows([tokens.keys[place] or b"" for place in used])
    if found.size and found.min() == NO_ROW:
        raise StoreError(f"{store}: {(found == NO_ROW).sum()} sequences are missing; embed again")
    row_of = np.full(len(tokens.keys) + 1, NO_ROW, np.int64)  # the last one answers to NO_ROW
    row_of[used] = found
    lengths = np.array([*tokens.lengths, 0])
    pairs = kept.pairs
    return PairTable(
        name=name,
        request=request,
        settings=settings,
        rows={key: row_of[places] for key, places in kept.index.items()},
        text=_text_columns(pairs),
        source_row=np.array([pair.row for pair in pairs]),
        pool=kept.pool,
        margin=np.array([np.nan if pair.margin is None else pair.margin for pair in pairs]),
        tokens={
            role: np.max([lengths[at] for key, at in kept.index.items() if key.endswith(role)], 0)
            for role in ("chosen", "rejected")
        },
        account={
            "rows": collection.rows,
            "pairs": len(pairs),
            "refused": len(collection.refusals) + len(kept.refusals),
            "refused_by_tokenizer": len(kept.refusals),
            "shortened_sequences": tokens.shortened,
            "ties": dict(collection.ties),
            "pairs_per_split": dict(Counter(pair.split for pair in pairs)),
            "prompt_overlap": prompt_overlap(pairs),
        },
        ratings=_rating_columns(pairs),
    )


def write_quarantine(store: Path, name: str, refusals: Sequence[Refusal]) -> Path:
    """Write every refusal as one JSON line; an empty file says that nothing was refused."""
    path = store / "quarantine" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    lines = [json.dumps(asdict(refusal), ensure_ascii=True) + "\n" for refusal in refusals]
    temporary.write_text("".join(lines), "utf-8")
    commit_file(temporary, path)
    return path


def _rating_columns(pairs: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for pair in pairs for name, *_ in pair.ratings)
    columns = {name: np.full((len(pairs), 2), np.nan, np.float32) for name in names}
    for row, pair in enumerate(pairs):
        for name, chosen, rejected in pair.ratings:
            columns[name][row] = chosen, rejected
    return columns


def _text_columns(pairs: Sequence[PreferencePair]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
    for pair in pairs:
        columns["prompt"].append(json.dumps(pair.prompt, ensure_ascii=False))
        for name in TEXT_COLUMNS:
            if name != "prompt":
                columns[name].append(getattr(pair, name) or "")
    return columns
