"""The embedding stage as a whole: data set to store, pair table and quarantine."""

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
from .disk_space import shortage
from .encoder import Encoder, load_encoder
from .input_fingerprint import input_fingerprint
from .job import close_job, open_job
from .model_files import score_head
from .pair_table import tabulate
from .plan import Plan
from .planner import make_plan
from .ray_workers import embed_on_ray
from .shard_loop import Notice, Progress, embed_shards
from .sources import PairSource
from .throughput import Speed, Work, matrix_peak, measure_speed

PROBE_BINS = 3


@dataclass(frozen=True)
class Preview:
    """What a job would do: the plan's sizes, bytes of new vectors, and an estimate.

    ``shortage`` says what does not fit on the disk; it is empty if all of it does.
    ``failed_sequences`` are left out because the backbone gave NaN or infinity for them before.
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
class Outcome:
    """What one process did. ``account`` is None while other processes have shards to embed."""

    preview: Preview
    work: Work
    seconds: float
    speed: Speed
    pending_shards: int
    account: dict[str, Any] | None


def preview_of(plan: Plan, backbone: TorchBackbone) -> Preview:
    """The sizes of a planned job."""
    facts = plan.facts
    new = facts.sequences - facts.stored - facts.failed
    return Preview(
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


def preview_job(config: Config, source: PairSource) -> tuple[Preview, float, Encoder]:
    """Plan without writing into the store; sizes and the estimated seconds of the passes.

    Raises ``ConfigError``, ``DataError`` or ``StoreError`` if the job could not run.
    """
    store = Path(config.store.dir)
    encoder = _load_encoder(config, store)
    if (store / "manifest.json").is_file():
        require_identity(store, read_manifest(store), encoder.identity)
    with TemporaryDirectory(prefix="micro-rm-plan-") as directory:
        plan = make_plan(encoder, source, config, "preview", Path(directory))
        short = shortage(plan, store, encoder.identity.dtype)
        preview = replace(preview_of(plan, encoder.backbone), shortage=short)
        return preview, estimate_seconds(encoder, plan), encoder


def estimate_seconds(encoder: Encoder, plan: Plan) -> float:
    """Seconds for a plan's bins, from the measured speed of a few of them."""
    bins = [found for shard in range(plan.facts.shards) for found in plan.bins(shard)]
    if not bins:
        return 0.0
    picked = [bins[len(bins) * part // PROBE_BINS] for part in range(PROBE_BINS)]
    sequences = [[plan.sequence(n) for n in members] for _, members in picked]
    encoder.backbone.vectors(sequences[-1])  # warm-up: first kernels, memory
    start = time.monotonic()
    for batch in sequences:
        encoder.backbone.vectors(batch)
    seconds = time.monotonic() - start
    return seconds * plan.facts.tokens / sum(tokens for tokens, _ in picked)


def run_job(
    config: Config,
    source: PairSource,
    request: str | None = None,
    *,
    planned: Callable[[Preview, Encoder], None],
    progress: Progress,
    notice: Notice,
    retry: bool = False,
) -> Outcome:
    """Plan or join, embed this process's part, and finish if it is the last one.

    ``request`` identifies the inputs, by default by their fingerprint. ``planned`` is called as
    soon as there is a plan. ``retry`` tries the sequences again that the
    backbone gave NaN or infinity for, which are left out otherwise.

    Raises ``ConfigError``, ``DataError`` or ``StoreError``.
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
            preview = preview_of(plan, encoder.backbone)
            planned(preview, encoder)
            work, speed, seconds = _embed(config, encoder, plan, store, progress, notice)
            pending = len(plan.pending(store))
            if pending:
                return Outcome(preview, work, seconds, speed, pending, None)
            close_job(lock, job, lambda plan: _finish(plan, config, encoder, source, request))
            # Between the last shard and the table another job may have taken the store.
            if read_request(store, config.data.name) == request:
                account = read_account(store, config.data.name)
                return Outcome(preview, work, seconds, speed, pending, account)


def _load_encoder(config: Config, store: Path) -> Encoder:
    """The encoder; another model than the store's is refused before its weights are read."""
    encoder = load_encoder(config.backbone, config.embed)
    if (store / "manifest.json").is_file():
        require_weights(store, read_manifest(store), encoder.files.weights_sha256)
    return encoder


def job_name(request: str, encoder: Encoder, config: Config) -> str:
    """What makes two processes workers of the same job: the same inputs, cut in the same way."""
    sizes = replace(config.embed, device="auto", shards="0/1", engine="local", actors=None)
    return fingerprint(request, asdict(encoder.identity), sizes, encoder.backbone.bin_tokens)


def _embed(
    config: Config,
    encoder: Encoder,
    plan: Plan,
    store: Path,
    progress: Progress,
    notice: Notice,
) -> tuple[Work, Speed, float]:
    """This process's part of the shards, or the whole cluster's; how fast, and the seconds."""
    backbone, start = encoder.backbone, time.monotonic()
    if config.embed.engine == "ray":
        backbone.model.to("cpu")  # the devices are the actors'
        done = embed_on_ray(config, plan, store, progress, notice)
        work, peak = done.work, done.peak_flops_per_second
        seconds = time.monotonic() - start
    else:
        part = config.embed.part
        work = embed_shards(backbone, encoder.identity, plan, store, part, progress, notice)
        seconds = time.monotonic() - start
        peak = matrix_peak(backbone.device, backbone.model.dtype)
    return work, measure_speed(backbone.model, work, seconds, peak), seconds


def _finish(plan: Plan, config: Config, encoder: Encoder, source: PairSource, request: str) -> None:
    store = Path(config.store.dir)
    head_D = score_head(encoder.files.directory)
    if head_D is not None and encoder.backbone.pooling == "last":
        write_native_head(store, head_D)
    settings = {"backbone": asdict(config.backbone), "form": config.views.form}
    tabulate(store, plan, source, request, settings)
