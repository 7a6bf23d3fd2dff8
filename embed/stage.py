"""The embedding stage: from a data set to vectors, a pair table and a quarantine file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cache.lock import StoreLock
from ..cache.manifest import read_manifest
from ..cache.native_head import write_native_head
from ..cache.pairs import read_account, read_request
from ..cache.schema import LOGICAL
from ..cache.writer import require_identity, require_weights
from ..common.fingerprint import fingerprint
from ..configs.resolve import resolve
from ..configs.schema import Config
from .backbone import TorchBackbone
from .disk_space import describe_shortage
from .encoder import Encoder, load_encoder
from .input_fingerprint import input_fingerprint
from .job import close_job, open_job
from .model_files import score_head
from .pair_table import write_pair_table
from .plan import Plan
from .planner import make_plan
from .ray_workers import embed_on_ray
from .shard_loop import NotifyCallback, ProgressCallback, embed_shards
from .sources import PairSource
from .throughput import Throughput, Work, compute_throughput, matrix_peak

PROBE_BINS = 3


@dataclass(frozen=True)
class JobPreview:
    """The size of a planned job, before any vector is computed.

    Attributes:
        pairs: Pairs that can be embedded.
        sequences: Distinct token sequences of these pairs.
        stored_sequences: Those that are in the store already.
        new_sequences: Those to embed.
        separate_tokens: Tokens of separate passes over the new sequences.
        tokens: Tokens that the bins compute; fewer, where prefixes are shared.
        bins: Forward passes.
        fill: Fraction of the bins' capacity that is used.
        shards: Shards to write.
        bytes: Size of the new vectors.
        note: Whether prefixes are shared, and why not.
        shortage: What does not fit on the disk; empty if the whole job does.
        failed_sequences: Sequences left out because the backbone gave NaN or infinity before.
    """

    pairs: int
    sequences: int
    stored_sequences: int
    new_sequences: int
    separate_tokens: int
    tokens: int
    bins: int
    fill: float
    shards: int
    bytes: int
    note: str
    shortage: str = ""
    failed_sequences: int = 0


@dataclass(frozen=True)
class JobResult:
    """What one process has done for a job.

    Attributes:
        preview: The size of the whole job.
        work: What this process has computed.
        seconds: How long that took.
        throughput: Its rate.
        pending_shards: Shards that other processes are still embedding.
        account: The account of the data set, or None while shards are pending.
    """

    preview: JobPreview
    work: Work
    seconds: float
    throughput: Throughput
    pending_shards: int
    account: dict[str, Any] | None


def preview_plan(plan: Plan, backbone: TorchBackbone) -> JobPreview:
    """Summarise a plan."""
    facts = plan.facts
    new = facts.sequences - facts.stored - facts.failed
    return JobPreview(
        pairs=facts.pairs,
        sequences=facts.sequences,
        stored_sequences=facts.stored,
        new_sequences=new,
        separate_tokens=facts.separate_tokens,
        tokens=facts.tokens,
        bins=facts.bins,
        fill=round(facts.fill, 4),
        shards=facts.shards,
        bytes=new * facts.width * LOGICAL[backbone.dtype].itemsize,
        note=backbone.note,
        failed_sequences=facts.failed,
    )


def preview_job(config: Config, source: PairSource) -> tuple[JobPreview, float, Encoder]:
    """Plan a job without writing into the store.

    Returns the preview, an estimate of the seconds that the forward passes take, and the encoder.

    Raises ``ConfigError``, ``DataError`` or ``StoreError`` if the job could not run.
    """
    store = Path(config.store.dir)
    encoder = _load_encoder(config, store)
    if (store / "manifest.json").is_file():
        require_identity(store, read_manifest(store), encoder.identity)
    with TemporaryDirectory(prefix="micro-rm-plan-") as directory:
        plan = make_plan(encoder, source, config, "preview", Path(directory))
        shortage = describe_shortage(plan, store, encoder.identity.dtype)
        preview = replace(preview_plan(plan, encoder.backbone), shortage=shortage)
        return preview, estimate_seconds(encoder, plan), encoder


def estimate_seconds(encoder: Encoder, plan: Plan) -> float:
    """Extrapolate the seconds of a plan's forward passes from a few measured bins."""
    bins = [item for shard in range(plan.facts.shards) for item in plan.bins(shard)]
    if not bins:
        return 0.0
    # Evenly spaced, because packing orders bins by size.
    sample = [bins[len(bins) * part // PROBE_BINS] for part in range(PROBE_BINS)]
    batches = [[plan.sequence(index) for index in members] for _, members in sample]
    encoder.backbone.vectors(batches[-1])  # warm-up: kernels are loaded, memory is allocated
    start = time.monotonic()
    for batch in batches:
        encoder.backbone.vectors(batch)
    seconds = time.monotonic() - start
    return seconds * plan.facts.tokens / sum(tokens for tokens, _ in sample)


def run_job(
    config: Config,
    source: PairSource,
    request: str | None = None,
    *,
    on_plan: Callable[[JobPreview, Encoder], None],
    progress: ProgressCallback,
    notify: NotifyCallback,
    retry: bool = False,
) -> JobResult:
    """Embed a data set together with any other processes that run the same job.

    The process plans the job or joins it, embeds its part of the shards, and, if it is the last
    one, writes the pair table.

    Args:
        config: The whole configuration.
        source: The pairs.
        request: Identifies the inputs; by default their fingerprint.
        on_plan: Called with the plan's summary before the first forward pass.
        progress: Called after each bin.
        notify: Called with messages for the user.
        retry: Whether to include sequences for which the backbone gave NaN or infinity before.

    Raises:
        ConfigError, DataError, StoreError: The job cannot run with this configuration, these data
            or this store.
    """
    store = Path(config.store.dir)
    encoder = _load_encoder(config, store)
    config = resolve(config, encoder.backbone)
    request = input_fingerprint(config) if request is None else request
    job = job_name(request, encoder, config) + "-retry" * retry
    with StoreLock(store) as lock:
        while True:
            plan = open_job(
                lock,
                encoder.identity,
                job,
                encoder.backbone.width,
                lambda directory: make_plan(encoder, source, config, job, directory, retry=retry),
            )
            preview = preview_plan(plan, encoder.backbone)
            on_plan(preview, encoder)
            work, throughput, seconds = _embed(config, encoder, plan, store, progress, notify)
            pending = len(plan.pending(store))
            if pending:
                return JobResult(preview, work, seconds, throughput, pending, None)
            close_job(lock, job, lambda plan: _finish(plan, config, encoder, source, request))
            # Another job may have taken the store between the last shard and the table; in that
            # case there is no table of this request yet, and the job is planned again.
            if read_request(store, config.data.name) == request:
                account = read_account(store, config.data.name)
                return JobResult(preview, work, seconds, throughput, pending, account)


def _load_encoder(config: Config, store: Path) -> Encoder:
    """Load the encoder, refusing a model other than the store's before its weights are loaded."""
    encoder = load_encoder(config.backbone, config.embed)
    if (store / "manifest.json").is_file():
        require_weights(store, read_manifest(store), encoder.files.weights_sha256)
    return encoder


def job_name(request: str, encoder: Encoder, config: Config) -> str:
    """Name of a job; processes with the same inputs and the same bins and shards share it."""
    # Where and by how many processes the shards are embedded does not change the plan.
    sizes = replace(config.embed, device="auto", shards="0/1", engine="local", actors=None)
    return fingerprint(request, asdict(encoder.identity), sizes, encoder.backbone.bin_tokens)


def _embed(
    config: Config,
    encoder: Encoder,
    plan: Plan,
    store: Path,
    progress: ProgressCallback,
    notify: NotifyCallback,
) -> tuple[Work, Throughput, float]:
    """Embed this process's part of the shards, or all of them on Ray; work, rate and seconds."""
    backbone, start = encoder.backbone, time.monotonic()
    if config.embed.engine == "ray":
        backbone.model.to("cpu")  # leave the GPUs to the actors
        total = embed_on_ray(config, plan, store, progress, notify)
        work, peak = total.work, total.peak_flops_per_second
        seconds = time.monotonic() - start
    else:
        part = config.embed.part
        work = embed_shards(backbone, encoder.identity, plan, store, part, progress, notify)
        seconds = time.monotonic() - start
        peak = matrix_peak(backbone.device, backbone.model.dtype)
    return work, compute_throughput(backbone.model, work, seconds, peak), seconds


def _finish(plan: Plan, config: Config, encoder: Encoder, source: PairSource, request: str) -> None:
    """Write the pair table, and the backbone's own reward head where the vectors fit it."""
    store = Path(config.store.dir)
    head_D = score_head(encoder.files.directory)
    if head_D is not None and encoder.backbone.pooling == "last":
        write_native_head(store, head_D)
    settings = {"backbone": asdict(config.backbone), "form": config.views.form}
    write_pair_table(store, plan, source, request, settings)
