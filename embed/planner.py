"""From a data set to a plan: two passes over the pairs, then bins of a bounded number of tokens.

The first pass finds the rows of the stage-2 pool, the second tokenises. What stays in memory is a
digest per conversation and a few numbers per pair; texts stream, tokens are on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache.failed import failed_keys
from ..cache.pairs import NO_ROW
from ..cache.reader import FeatureStore, KeyIndex
from ..cache.writer import next_shard_number
from ..configs.data import UNION_SOURCE
from ..configs.resolve import resolve
from ..configs.schema import Config
from .encoder import Encoder
from .plan import TOKENS, Plan, PlanFacts, write_plan
from .sequences import PoolChooser, SequenceIndex
from .sources import PairSource
from .sources.check import Tally
from .sources.pair import DataError
from .tokenize import TOKEN_DTYPE, TokenFile

# Tokens whose sequences are sorted and packed together; a few copies of them are in memory.
WINDOW_TOKENS = 1 << 23


@dataclass(frozen=True)
class Packed:
    """Sequences in the order of their bins, (bins + 1,) starts, and (bins,) computed tokens."""

    members: np.ndarray
    starts: np.ndarray
    tokens: np.ndarray


def make_plan(
    encoder: Encoder,
    source: PairSource,
    config: Config,
    job: str,
    directory: Path,
    *,
    retry: bool = False,
) -> Plan:
    """Plan a job into an empty directory; the store is only read.

    ``retry`` plans the sequences again that the backbone gave no finite vector for.
    Raises ``DataError`` if the data lack a split or no pair can be embedded.
    """
    config = resolve(config, encoder.backbone)
    pool, tally = _survey(source, config)
    tally.require_both_splits(transfer=config.data.source == UNION_SOURCE)
    columns, tokens = _tokenize(encoder, source, config, pool, directory / TOKENS)
    keep = _embeddable(columns, tokens.refusals, len(pool))
    sequence_of, representative = _distinct(columns, keep, tokens.keys)
    groups = _least(sequence_of, tokens.groups, len(representative))
    starts = (np.cumsum(tokens.lengths) - tokens.lengths)[representative]
    keys, lengths = tokens.keys[representative], tokens.lengths[representative]
    store = Path(config.store.dir)
    fresh, failed = _not_stored(store, keys, retry=retry)
    order = fresh[np.lexsort((keys[fresh], groups[fresh]))]
    packed = _pack_all(order, starts, lengths, directory / TOKENS, encoder)
    shard_starts = cut_shards(packed.tokens, config.embed.shard_tokens)
    facts = PlanFacts(
        job=job,
        name=config.data.name,
        pairs=int(keep.sum()),
        sequences=len(keys),
        stored=len(keys) - len(fresh) - failed,
        failed=failed,
        tokens=int(packed.tokens.sum()),
        separate_tokens=int(lengths[fresh].sum()),
        bins=len(packed.tokens),
        bin_tokens=encoder.backbone.bin_tokens,
        shards=len(shard_starts) - 1,
        first_shard=next_shard_number(store),
        shortened=tokens.shortened,
        sharing=encoder.backbone.sharing,
        width=encoder.backbone.width,
    )
    arrays = {
        "keys": keys,
        "lengths": lengths,
        "starts": starts,
        "sequence_of": sequence_of,
        "keep": keep,
        "pool": pool,
        "members": packed.members,
        "bin_starts": packed.starts,
        "bin_tokens": packed.tokens,
        "shard_starts": shard_starts,
    }
    write_plan(directory, facts, arrays, columns, tokens.refusals)
    return Plan(directory)


def cut_shards(bin_tokens: np.ndarray, shard_tokens: int) -> np.ndarray:
    """(shards + 1,) first bins of shards: each ends with the bin that fills it."""
    ends = np.cumsum(bin_tokens)
    starts = [0]
    while starts[-1] < len(ends):
        done = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(min(len(ends), int(np.searchsorted(ends, done + shard_tokens)) + 1))
    return np.array(starts, np.int64)


def _survey(source: PairSource, config: Config) -> tuple[np.ndarray, Tally]:
    """The mask of the stage-2 pool, and the counts of the splits."""
    chooser, tally, rows = PoolChooser(config.adapt.pool, config.adapt.group), Tally(), 0
    for place, pair in enumerate(source):
        chooser.add(place, pair)
        tally.add(pair)
        rows = place + 1
    return chooser.mask(rows), tally


def _tokenize(
    encoder: Encoder, source: PairSource, config: Config, pool: np.ndarray, path: Path
) -> tuple[dict[str, np.ndarray], TokenFile]:
    """Conversations per view and role, and the file with their tokens."""
    index = SequenceIndex(config.views, equal_prompts=config.backbone.overlong == "truncate_prompt")
    with TokenFile(path, encoder.renderer) as tokens:
        for place, pair in enumerate(source):
            tokens.add(index.add(pair, in_pool=bool(pool[place])))
        tokens.close()
    return index.columns(), tokens


def _embeddable(columns: dict[str, np.ndarray], refusals: dict[int, str], pairs: int) -> np.ndarray:
    """(N,) mask of the pairs without a refused conversation; ``DataError`` if none is left."""
    refused = np.array(sorted(refusals), np.int64)
    keep = np.ones(pairs, bool)
    for places in columns.values():
        keep &= ~np.isin(places, refused)
    if not keep.any():
        place, reason = min(refusals.items())
        raise DataError(
            f"no pair is left after tokenisation (sequence {place}: {reason}); "
            "raise backbone.max_length or set backbone.overlong to truncate_prompt"
        )
    return keep


def _distinct(
    columns: dict[str, np.ndarray], keep: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sequence of every conversation that kept pairs need, and a conversation of every one."""
    used = np.zeros(len(keys), bool)
    for places in columns.values():
        needed = places[keep]
        used[needed[needed != NO_ROW]] = True
    conversations = np.flatnonzero(used)
    _, first, sequence = np.unique(keys[conversations], return_index=True, return_inverse=True)
    sequence_of = np.full(len(keys), NO_ROW, np.int64)
    sequence_of[conversations] = sequence
    return sequence_of, conversations[first]


def _least(sequence_of: np.ndarray, groups: np.ndarray, sequences: int) -> np.ndarray:
    """The smallest group of each sequence: whatever the order of the data, the same one."""
    used = sequence_of != NO_ROW
    least = np.full(sequences, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, sequence_of[used], groups[used])
    return least


def _not_stored(store: Path, keys: np.ndarray, *, retry: bool) -> tuple[np.ndarray, int]:
    """The sequences to embed, and the number of those that are left out as failed before."""
    if not (store / "manifest.json").is_file():
        return np.arange(len(keys)), 0
    missing = np.flatnonzero(KeyIndex(FeatureStore(store).keys()).rows(keys) == NO_ROW)
    if retry:
        return missing, 0
    fresh = missing[~np.isin(keys[missing], failed_keys(store))]
    return fresh, len(missing) - len(fresh)


def _pack_all(
    order: np.ndarray, starts: np.ndarray, lengths: np.ndarray, path: Path, encoder: Encoder
) -> Packed:
    """Bins of all sequences, window by window."""
    members: list[np.ndarray] = []
    sizes, tokens = [0], []
    spelled = (
        np.memmap(path, TOKEN_DTYPE, mode="r").view(np.ndarray) if path.stat().st_size else None
    )
    for window in _windows(lengths[order]):
        numbers = order[window]
        assert spelled is not None
        sequences = [spelled[starts[n] : starts[n] + lengths[n]] for n in numbers]
        for made in encoder.backbone.pack(sequences, encoder.backbone.bin_tokens):
            members.append(numbers[list(made.members)])
            sizes.append(len(made.members))
            tokens.append(made.tokens)
    return Packed(
        members=np.concatenate(members) if members else np.empty(0, np.int64),
        starts=np.cumsum(sizes),
        tokens=np.array(tokens, np.int64),
    )


def _windows(lengths: np.ndarray) -> Iterator[slice]:
    ends = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + WINDOW_TOKENS, side="right")))
        yield slice(start, stop)
        start = stop
