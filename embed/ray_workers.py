"""The shards of a plan on a Ray cluster: one actor per GPU takes one shard after the other.

Shards have the same number of tokens, so that taking turns balances the work. The driver plans and
finishes, actors only embed: a killed one loses the shard that it was at, which another one repeats.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cache.manifest import read_manifest
from ..cache.schema import plan_path
from ..cache.writer import require_identity
from ..common.cores import available_cores
from ..common.errors import ConfigError, UserError
from ..configs.schema import Config
from .encoder import load_encoder
from .nonfinite import FailureGuard
from .plan import Plan
from .shard_loop import BinLimit, Notice, Progress, embed_shard
from .throughput import Work, matrix_peak

# A shard whose actors keep dying is not retried for ever, nor are actors that die at start.
MOST_ATTEMPTS = 4


class ClusterError(UserError):
    """The Ray cluster cannot do the work."""


@dataclass(frozen=True)
class ClusterWork:
    """What all actors computed together, and the sum of their devices' matrix peaks."""

    work: Work
    peak_flops_per_second: float


class ShardActor:
    """One process of the cluster with the backbone in its memory."""

    def __init__(self, config: Config, job: str) -> None:
        self.store = Path(config.store.dir)
        self.plan = Plan(plan_path(self.store))
        if self.plan.facts.job != job:
            raise ClusterError(f"{self.store}: another job's plan lies here")
        self.encoder = load_encoder(config.backbone, config.embed)
        require_identity(self.store, read_manifest(self.store), self.encoder.identity)
        self.notices: list[str] = []
        self.limit = BinLimit(self.plan.facts.bin_tokens, self.notices.append)
        identity = self.encoder.identity
        self.guard = FailureGuard.of(self.encoder.backbone, identity.backbone, self.store)

    def peak(self) -> float:
        """Operations per second of a matrix product on this actor's device."""
        model = self.encoder.backbone.model
        return matrix_peak(model.device, model.dtype)

    def embed(self, shard: int) -> tuple[Work, list[str]]:
        """Embed and seal one shard; what was computed for it, and what there is to say."""
        backbone = self.encoder.backbone
        backbone.work = Work()
        identity = self.encoder.identity
        embed_shard(backbone, identity, self.plan, self.store, shard, self.limit, self.guard)
        said, self.notices[:] = list(self.notices), []
        return backbone.work, said


def embed_on_ray(
    config: Config, plan: Plan, store: Path, progress: Progress, notice: Notice
) -> ClusterWork:
    """Embed every shard that is not sealed yet.

    Raises ``ConfigError`` if Ray is missing, ``ClusterError`` if actors die again and again.
    """
    # Ray prints what it thinks of a dead process to standard output, which is for results.
    with redirect_stdout(sys.stderr):
        ray = _connect(config.embed.actors)
        try:
            return _Cluster(ray, _placed(config, plan), plan, store, progress, notice).run()
        finally:
            ray.shutdown()


class _Cluster:
    """Actors, the shards that they are at, and the shards that wait."""

    def __init__(
        self, ray: Any, config: Config, plan: Plan, store: Path, progress: Progress, notice: Notice
    ) -> None:
        self.ray = ray
        self.config = config
        self.plan = plan
        self.progress = progress
        self.notice = notice
        self.waiting = deque(plan.pending(store))
        self.total = sum(plan.shard_tokens(shard) for shard in self.waiting)
        self.attempts = dict.fromkeys(self.waiting, 0)
        self.running: dict[Any, tuple[Any, int]] = {}
        self.peaks: dict[Any, Any] = {}
        self.work = Work()

    def run(self) -> ClusterWork:
        """Deal shards until none is left."""
        start, done = time.monotonic(), 0
        make_actor, number = self._actors()
        for _ in range(min(number, len(self.waiting))):
            self._give_work(make_actor())
        while self.running:
            (ready,), _ = self.ray.wait(list(self.running), num_returns=1)
            actor, shard = self.running.pop(ready)
            try:
                work, said = self.ray.get(ready)
            except self.ray.exceptions.RayActorError as error:
                self._put_back(shard, error)
                actor = make_actor()
            except self.ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from error
            else:
                self.work.tokens += work.tokens
                self.work.attended += work.attended
                done += self.plan.shard_tokens(shard)
                self.progress(done, self.total, time.monotonic() - start)
                for text in said:
                    self.notice(text)
            self._give_work(actor)
        peaks = self.ray.get(list(self.peaks.values())) if self.peaks else []
        return ClusterWork(self.work, float(sum(peaks)))

    def _give_work(self, actor: Any) -> None:
        if self.waiting:
            shard = self.waiting.popleft()
            self.running[actor.embed.remote(shard)] = (actor, shard)
        else:
            self.peaks[actor] = actor.peak.remote()

    def _put_back(self, shard: int, error: Exception) -> None:
        self.attempts[shard] += 1
        if self.attempts[shard] == MOST_ATTEMPTS:
            raise ClusterError(
                f"{MOST_ATTEMPTS} actors died one after the other over shard {shard} "
                f"({' '.join(str(error).split())}); see the logs of Ray, and try embed.engine=local"
            ) from error
        self.notice(f"an actor died while it embedded shard {shard}, which is embedded again")
        self.waiting.appendleft(shard)

    def _actors(self) -> tuple[Any, int]:
        """How to start an actor, and how many of them the cluster has room for."""
        resources = self.ray.cluster_resources()
        gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
        number = self.config.embed.actors or int(gpus or cpus)
        options: dict[str, Any] = {"num_cpus": _portion(cpus, number)}
        if gpus:
            options = {"num_gpus": _portion(gpus, number), "num_cpus": 0}
        remote = self.ray.remote(ShardActor).options(**options)
        return lambda: remote.remote(self.config, self.plan.facts.job), number


def _portion(amount: float, parts: int) -> float:
    """An equal share of a resource; Ray takes fractions below one only."""
    share = amount / parts
    return float(int(share)) if share >= 1 else share


def _placed(config: Config, plan: Plan) -> Config:
    """The configuration as it means the same thing in any process of the cluster."""
    backbone = config.backbone
    if Path(backbone.name).is_dir():
        backbone = replace(backbone, name=str(Path(backbone.name).resolve()))
    return replace(
        config,
        backbone=backbone,
        store=replace(config.store, dir=str(Path(config.store.dir).resolve())),
        embed=replace(config.embed, bin_tokens=plan.facts.bin_tokens),
    )


def _connect(actors: int | None) -> Any:
    """Ray, connected to the cluster that RAY_ADDRESS names or to one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "embed.engine: ray is not installed; pip install 'micro-rm[ray]', or use local"
        ) from error
    import ray.exceptions

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
    else:
        cores = max(available_cores(), actors or 0)
        ray.init(include_dashboard=False, num_cpus=cores, **quiet)
    return ray
