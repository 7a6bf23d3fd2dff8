"""Plan an embedding job: two passes over the pairs, then bins of a bounded number of tokens.

The first pass chooses the stage-2 pool, the second tokenises. Memory holds a digest per
conversation and a few numbers per pair; texts are streamed and tokens are written to disk.
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
from .sequences import ConversationIndex, PoolChooser
from .sources import PairSource
from .sources.check import Tally
from .sources.pair import DataError
from .tokenize import TOKEN_DTYPE, TokenFile

# Tokens that are sorted and packed at a time, which bounds the memory for a few copies of them.
WINDOW_TOKENS = 1 << 23


@dataclass(frozen=True)
class PackedBins:
    """B bins, one after the other.

    Attributes:
        members: Indices of the sequences, in the order of their bins.
        starts: (B + 1,) where each bin starts in ``members``.
        tokens: (B,) tokens that each bin computes.
    """

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
    """Write the plan of a job into an empty directory; the store is only read.

    Args:
        encoder: Backbone, tokenizer and identity of the vectors.
        source: The pairs; iterated over twice.
        config: The whole configuration, which may leave backbone settings open.
        job: The name of the job.
        directory: Where the plan is written.
        retry: Whether to include sequences for which the backbone gave no finite vector before.

    Raises:
        DataError: The data lack a split, or no pair can be embedded.
    """
    config = resolve(config, encoder.backbone)
    pool, tally = _choose_pool(source, config)
    tally.require_both_splits(transfer=config.data.source == UNION_SOURCE)
    columns, tokens = _tokenize(encoder, source, config, pool, directory / TOKENS)
    keep = _embeddable(columns, tokens.refusals, len(pool))
    # Different conversations may have the same tokens. From here on each distinct sequence counts
    # once, and one of its conversations represents it in the token file.
    sequence_of, representative = _deduplicate(columns, keep, tokens.keys)
    groups = _smallest_group(sequence_of, tokens.groups, len(representative))
    starts = (np.cumsum(tokens.lengths) - tokens.lengths)[representative]
    keys, lengths = tokens.keys[representative], tokens.lengths[representative]
    store = Path(config.store.dir)
    new, failed = _new_sequences(store, keys, retry=retry)
    # Sequences with the same prompt become neighbours, so that a packing window does not separate
    # them. Hashes of content order the rest: the plan does not depend on the order of the data.
    order = new[np.lexsort((keys[new], groups[new]))]
    packed = _pack_in_windows(order, starts, lengths, directory / TOKENS, encoder)
    shard_starts = cut_shards(packed.tokens, config.embed.shard_tokens)
    facts = PlanFacts(
        job=job,
        name=config.data.name,
        pairs=int(keep.sum()),
        sequences=len(keys),
        stored=len(keys) - len(new) - failed,
        failed=failed,
        tokens=int(packed.tokens.sum()),
        separate_tokens=int(lengths[new].sum()),
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
    """Cut B bins into S shards, each of which ends with the bin that fills it.

    Args:
        bin_tokens: (B,) tokens of the bins.
        shard_tokens: Least tokens of a shard; the last one may have fewer.

    Returns:
        (S + 1,) the first bin of each shard, and B.

    Example:
        >>> cut_shards(np.array([4, 4, 4, 4, 4]), 8).tolist()
        [0, 2, 4, 5]
    """
    ends = np.cumsum(bin_tokens)
    starts = [0]
    while starts[-1] < len(ends):
        done = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(min(len(ends), int(np.searchsorted(ends, done + shard_tokens)) + 1))
    return np.array(starts, np.int64)


def _choose_pool(source: PairSource, config: Config) -> tuple[np.ndarray, Tally]:
    """First pass: the (N,) mask of the stage-2 pool, and the pairs per split."""
    chooser, tally, rows = PoolChooser(config.adapt.pool, config.adapt.group), Tally(), 0
    for row, pair in enumerate(source):
        chooser.add(row, pair)
        tally.add(pair)
        rows = row + 1
    return chooser.mask(rows), tally


def _tokenize(
    encoder: Encoder, source: PairSource, config: Config, pool: np.ndarray, path: Path
) -> tuple[dict[str, np.ndarray], TokenFile]:
    """Second pass: (N,) conversations per ``view/role``, and the file with their tokens."""
    index = ConversationIndex(
        config.views, equal_prompts=config.backbone.overlong == "truncate_prompt"
    )
    with TokenFile(path, encoder.renderer) as tokens:
        for row, pair in enumerate(source):
            tokens.add(index.add(pair, in_pool=bool(pool[row])))
        tokens.close()
    return index.columns(), tokens


def _embeddable(columns: dict[str, np.ndarray], refusals: dict[int, str], pairs: int) -> np.ndarray:
    """(N,) mask of the pairs without a refused conversation; ``DataError`` if none is left."""
    refused = np.array(sorted(refusals), np.int64)
    keep = np.ones(pairs, bool)
    for conversations in columns.values():
        keep &= ~np.isin(conversations, refused)
    if not keep.any():
        index, reason = min(refusals.items())
        raise DataError(
            f"no pair is left after tokenisation (sequence {index}: {reason}); "
            "raise backbone.max_length or set backbone.overlong to truncate_prompt"
        )
    return keep


def _deduplicate(
    columns: dict[str, np.ndarray], keep: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct sequences that the kept pairs need.

    Returns ``sequence_of`` (conversations,), which is ``NO_ROW`` for unused ones, and for each
    sequence the first conversation that has it.
    """
    used = np.zeros(len(keys), bool)
    for column in columns.values():
        needed = column[keep]
        used[needed[needed != NO_ROW]] = True
    conversations = np.flatnonzero(used)
    _, first, sequence = np.unique(keys[conversations], return_index=True, return_inverse=True)
    sequence_of = np.full(len(keys), NO_ROW, np.int64)
    sequence_of[conversations] = sequence
    return sequence_of, conversations[first]


def _smallest_group(sequence_of: np.ndarray, groups: np.ndarray, sequences: int) -> np.ndarray:
    """(sequences,) smallest prompt group of each; unlike the first, it is independent of order."""
    used = sequence_of != NO_ROW
    smallest = np.full(sequences, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, sequence_of[used], groups[used])
    return smallest


def _new_sequences(store: Path, keys: np.ndarray, *, retry: bool) -> tuple[np.ndarray, int]:
    """Indices of the sequences to embed, and how many are left out because they failed before."""
    if not (store / "manifest.json").is_file():
        return np.arange(len(keys)), 0
    missing = np.flatnonzero(KeyIndex(FeatureStore(store).keys()).rows(keys) == NO_ROW)
    if retry:
        return missing, 0
    new = missing[~np.isin(keys[missing], failed_keys(store))]
    return new, len(missing) - len(new)


def _pack_in_windows(
    order: np.ndarray, starts: np.ndarray, lengths: np.ndarray, path: Path, encoder: Encoder
) -> PackedBins:
    """Pack the sequences of ``order`` window by window; ``path`` is the token file."""
    members: list[np.ndarray] = []
    sizes, tokens = [0], []
    # A plain view, because slices of a memmap cost more. NumPy cannot map an empty file.
    token_ids = (
        np.memmap(path, TOKEN_DTYPE, mode="r").view(np.ndarray) if path.stat().st_size else None
    )
    for window in _windows(lengths[order]):
        indices = order[window]
        assert token_ids is not None
        sequences = [token_ids[starts[i] : starts[i] + lengths[i]] for i in indices]
        for packed in encoder.backbone.pack(sequences, encoder.backbone.bin_tokens):
            # The bin's members count within the window.
            members.append(indices[list(packed.members)])
            sizes.append(len(packed.members))
            tokens.append(packed.tokens)
    return PackedBins(
        members=np.concatenate(members) if members else np.empty(0, np.int64),
        starts=np.cumsum(sizes),
        tokens=np.array(tokens, np.int64),
    )


def _windows(lengths: np.ndarray) -> Iterator[slice]:
    """Cut consecutive sequences into windows of at most ``WINDOW_TOKENS``, or of one sequence."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + WINDOW_TOKENS, side="right")))
        yield slice(start, stop)
        start = stop
