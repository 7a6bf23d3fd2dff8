"""The embedding stage as a whole: collection to store, pair table and quarantine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..cache.native_head import write_native_head
from ..cache.pairs import PairTable, write_pairs
from ..cache.schema import LOGICAL
from ..cache.writer import StoreLock
from ..configs.schema import Config
from .encoder import Encoder, load_encoder
from .extract import Progress, Tokenized, Work, embed_work, plan_work, tokenize
from .sequences import choose_pool, plan_sequences
from .sources.collection import Collection
from .tabulate import Embeddable, make_pair_table, select_embeddable, write_quarantine
from .weights import score_head

PROBE_BATCHES = 3


@dataclass(frozen=True)
class EmbeddingJob:
    """A planned embedding run: nothing is written yet."""

    encoder: Encoder
    collection: Collection
    tokens: Tokenized
    kept: Embeddable
    work: Work

    @property
    def new_sequences(self) -> int:
        """Sequences that the store does not have yet."""
        return self.work.sequences - self.work.stored

    @property
    def new_bytes(self) -> int:
        """Bytes of the vectors to be written."""
        backbone = self.encoder.backbone
        return self.new_sequences * backbone.width * LOGICAL[self.encoder.config.dtype].itemsize


def plan_job(config: Config, collection: Collection) -> EmbeddingJob:
    """Tokenise everything and find out what the store lacks.

    Raises ``ConfigError``, ``DataError`` or ``StoreError`` if the run cannot work.
    """
    encoder = load_encoder(config.backbone, config.embed.device)
    pool = choose_pool(collection.pairs, config.adapt.pool, config.adapt.group)
    shortens = config.backbone.overlong == "truncate_prompt"
    plan = plan_sequences(collection.pairs, pool, config.views, equal_prompts=shortens)
    tokens = tokenize(encoder, plan.conversations)
    kept = select_embeddable(collection, pool, plan, tokens)
    work = plan_work(encoder, kept.sequences, Path(config.store.dir), config.embed)
    return EmbeddingJob(encoder, collection, tokens, kept, work)


def estimate_seconds(job: EmbeddingJob) -> float:
    """Seconds for the job's batches, from the measured speed of a few of them."""
    batches = job.work.batches
    if not batches:
        return 0.0
    picked = [batches[len(batches) * part // PROBE_BATCHES] for part in range(PROBE_BATCHES)]
    job.encoder.backbone.vectors(picked[-1])  # warm-up: first kernels, memory
    start = time.monotonic()
    for batch in picked:
        job.encoder.backbone.vectors(batch)
    tokens = sum(len(item.token_ids) for batch in picked for item in batch)
    return (time.monotonic() - start) * job.work.tokens / tokens


def run_job(
    job: EmbeddingJob, config: Config, request: str, progress: Progress, lock: StoreLock
) -> tuple[PairTable, float]:
    """Embed what is missing, then write the pair table and the quarantine file, under one lock.

    Returns the table and the seconds that the forward passes and the writing of vectors took.
    """
    store, name = Path(config.store.dir), config.data.name
    seconds = embed_work(job.encoder, job.work, store, config.embed, progress, lock)
    settings = {"backbone": asdict(config.backbone), "form": config.views.form}
    table = make_pair_table(store, name, request, settings, job.collection, job.kept, job.tokens)
    head_D = score_head(job.encoder.files.directory)
    if head_D is not None and job.encoder.backbone.pooling == "last":
        write_native_head(store, head_D)
    write_quarantine(store, name, [*job.collection.refusals, *job.kept.refusals])
    write_pairs(store, table)
    return table, seconds
