"""The embedding loop: conversations to token sequences to passes to sealed shards.

Every distinct token sequence is embedded once per store, whatever pair, attribute or data set it
belongs to. The loop may be killed at any moment; the same command then goes on behind the last
sealed shard and makes the same batches as an undisturbed run, so the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from ..cache.reader import FeatureStore
from ..cache.schema import KEY_DTYPE, read_manifest, sequence_key
from ..cache.writer import StoreLock, StoreWriter, require_identity
from ..configs.schema import EmbedConfig
from .chat import Conversation, OverlongError, TemplateError
from .encoder import Encoder
from .planning import Pass, plan_batches, plan_passes, without
from .sources.pair import DataError

TOKENIZE_CHUNK = 2048
Progress = Callable[[int, int, float], None]  # tokens done, tokens in all, seconds


@dataclass
class Tokenized:
    """Distinct token sequences of a plan, and per conversation its key or why it has none."""

    sequences: dict[bytes, np.ndarray] = field(default_factory=dict)
    keys: list[bytes | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    refusals: dict[int, str] = field(default_factory=dict)
    shortened: int = 0


@dataclass(frozen=True)
class Work:
    """What is left to do for a plan: batches in their fixed order, and the size of it all."""

    job: str
    batches: list[list[Pass]]
    sequences: int
    stored: int
    tokens: int


def tokenize(encoder: Encoder, conversations: Sequence[Conversation]) -> Tokenized:
    """Token ids of every conversation; what is too long or refused by the template is recorded.

    Raises ``DataError`` under ``backbone.overlong=error``.
    """
    result = Tokenized()
    for start in range(0, len(conversations), TOKENIZE_CHUNK):
        chunk = conversations[start : start + TOKENIZE_CHUNK]
        for place, (item, ids) in enumerate(
            zip(chunk, _token_ids(encoder, chunk, start, result), strict=True), start=start
        ):
            key = None
            if ids is not None:
                try:
                    fitted = encoder.renderer.fit(item, ids)
                    result.shortened += len(fitted) < len(ids)
                    ids, key = fitted, sequence_key(fitted)
                    result.sequences[key] = fitted
                except OverlongError as error:
                    if encoder.config.overlong == "error":
                        raise DataError(
                            f"a sequence is too long: {error}; raise backbone.max_length or set "
                            "backbone.overlong to drop or truncate_prompt"
                        ) from error
                    result.refusals[place] = f"overlong: {error}"
            result.keys.append(key)
            result.lengths.append(0 if ids is None else len(ids))
    return result


def plan_work(
    encoder: Encoder, sequences: Mapping[bytes, np.ndarray], store: Path, config: EmbedConfig
) -> Work:
    """Batches over what other jobs have not stored, less what this job has already sealed.

    Raises ``StoreError`` if the store was written under another identity.
    """
    wanted = np.sort(np.array(list(sequences), KEY_DTYPE))
    settings = f"{encoder.backbone.share_prefixes} {config.batch_tokens}"
    job = xxhash.xxh3_64_hexdigest(wanted.tobytes() + settings.encode())
    foreign: set[bytes] = set()
    stored: set[bytes] = set()
    if (store / "manifest.json").is_file():
        require_identity(store, read_manifest(store), encoder.identity)
        reader = FeatureStore(store)
        stored = _key_set(reader.keys())
        foreign = _key_set(reader.keys(without_job=job))
    fresh = {key: ids for key, ids in sequences.items() if key not in foreign}
    passes = plan_passes(fresh, share_prefixes=encoder.backbone.share_prefixes)
    left = [
        [item for item in (without(item, stored) for item in batch) if item is not None]
        for batch in plan_batches(passes, config.batch_tokens)
    ]
    batches = [batch for batch in left if batch]
    return Work(
        job=job,
        batches=batches,
        sequences=len(sequences),
        stored=sum(key in stored for key in sequences),
        tokens=sum(len(item.token_ids) for batch in batches for item in batch),
    )


def embed_work(
    encoder: Encoder,
    work: Work,
    store: Path,
    config: EmbedConfig,
    progress: Progress,
    lock: StoreLock | None = None,
) -> float:
    """Run the batches that are left into the store; returns the seconds it took.

    On an exception or an interrupt, what is finished is sealed before it travels on.
    """
    start = time.monotonic()
    writer = StoreWriter(
        store,
        encoder.identity,
        encoder.backbone.width,
        job=work.job,
        shard_rows=config.shard_rows,
        seal_seconds=config.seal_seconds,
        lock=lock,
    )
    done = 0
    with writer:
        for batch in work.batches:
            vectors = encoder.backbone.vectors(batch)
            writer.add([key for item in batch for key in item.keys], vectors)
            done += sum(len(item.token_ids) for item in batch)
            progress(done, work.tokens, time.monotonic() - start)
    return time.monotonic() - start


def _token_ids(
    encoder: Encoder, chunk: Sequence[Conversation], start: int, result: Tokenized
) -> list[np.ndarray | None]:
    """Token ids of a chunk at once; one by one only if the template refuses some of them."""
    try:
        return list(encoder.renderer.token_ids(chunk))
    except TemplateError:
        ids: list[np.ndarray | None] = []
        for place, item in enumerate(chunk, start=start):
            try:
                ids.append(encoder.renderer.token_ids([item])[0])
            except TemplateError as error:
                result.refusals[place] = f"the chat template refuses it: {error}"
                ids.append(None)
        return ids


def _key_set(keys: np.ndarray) -> set[bytes]:
    # NumPy strips trailing zero bytes from S16 scalars; the raw bytes keep them.
    raw = keys.tobytes()
    return {raw[start : start + 16] for start in range(0, len(raw), 16)}
