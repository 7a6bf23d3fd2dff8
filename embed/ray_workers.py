"""Embed the shards of a plan on a Ray cluster, with one actor per GPU.

Each actor takes the next shard when it has finished one. Shards have about the same number of
tokens, so this balances the work. The driver plans and finishes the job, actors only embed. If an
actor is killed, only its current shard is lost, and another actor repeats it.
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
from .shard_loop import BinLimit, NotifyCallback, ProgressCallback, embed_shard
from .throughput import Work, matrix_peak

# Bounds the retries of a shard whose actors keep dying, including those that die at start.
MAX_ATTEMPTS = 4


class ClusterError(UserError):
    """The Ray cluster cannot do the work."""


@dataclass(frozen=True)
class ClusterWork:
    """Work of all actors together, and the sum of their devices' peak rates."""

    work: Work
    peak_flops_per_second: float


class ShardActor:
    """One process of the cluster, with the backbone in its memory.

    Raises ``ClusterError`` if the store holds the plan of another job, and ``StoreError`` if the
    backbone found here is not the store's.
    """

    def __init__(self, config: Config, job: str) -> None:
        self.store = Path(config.store.dir)
        self.plan = Plan(plan_path(self.store))
        if self.plan.facts.job != job:
            raise ClusterError(f"{self.store}: another job's plan lies here")
        self.encoder = load_encoder(config.backbone, config.embed)
        require_identity(self.store, read_manifest(self.store), self.encoder.identity)
        self.messages: list[str] = []
        self.limit = BinLimit(self.plan.facts.bin_tokens, self.messages.append)
        identity = self.encoder.identity
        self.guard = FailureGuard.for_store(self.encoder.backbone, identity.backbone, self.store)

    def peak(self) -> float:
        """Peak FLOP/s of a matrix product on this actor's device, measured now."""
        model = self.encoder.backbone.model
        return matrix_peak(model.device, model.dtype)

    def embed(self, shard: int) -> tuple[Work, list[str]]:
        """Embed and seal one shard; the work that it took, and messages for the user."""
        backbone = self.encoder.backbone
        backbone.work = Work()
        identity = self.encoder.identity
        embed_shard(backbone, identity, self.plan, self.store, shard, self.limit, self.guard)
        messages, self.messages[:] = list(self.messages), []
        return backbone.work, messages


def embed_on_ray(
    config: Config, plan: Plan, store: Path, progress: ProgressCallback, notify: NotifyCallback
) -> ClusterWork:
    """Embed all shards that are not sealed yet.

    Raises ``ConfigError`` if Ray is not installed, ``ClusterError`` if actors keep dying over the
    same shard.
    """
    # Ray reports dead processes on standard output, which is reserved for results.
    with redirect_stdout(sys.stderr):
        ray = _connect(config.embed.actors)
        try:
            return _Cluster(ray, _cluster_config(config, plan), plan, store, progress, notify).run()
        finally:
            ray.shutdown()


class _Cluster:
    """Assigns waiting shards to actors.

    ``running`` maps the pending result of each call to its actor and shard.
    """

    def __init__(
        self,
        ray: Any,
        config: Config,
        plan: Plan,
        store: Path,
        progress: ProgressCallback,
        notify: NotifyCallback,
    ) -> None:
        self.ray = ray
        self.config = config
        self.plan = plan
        self.progress = progress
        self.notify = notify
        self.waiting = deque(plan.pending(store))
        self.total = sum(plan.shard_tokens(shard) for shard in self.waiting)
        self.attempts = dict.fromkeys(self.waiting, 0)
        self.running: dict[Any, tuple[Any, int]] = {}
        self.peaks: dict[Any, Any] = {}
        self.work = Work()

    def run(self) -> ClusterWork:
        """Assign shards until all are sealed."""
        start, done = time.monotonic(), 0
        make_actor, num_actors = self._actors()
        for _ in range(min(num_actors, len(self.waiting))):
            self._assign(make_actor())
        while self.running:
            (ready,), _ = self.ray.wait(list(self.running), num_returns=1)
            actor, shard = self.running.pop(ready)
            try:
                work, messages = self.ray.get(ready)
            except self.ray.exceptions.RayActorError as error:
                self._requeue(shard, error)
                actor = make_actor()
            except self.ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from error
            else:
                self.work.tokens += work.tokens
                self.work.attended += work.attended
                done += self.plan.shard_tokens(shard)
                self.progress(done, self.total, time.monotonic() - start)
                for text in messages:
                    self.notify(text)
            self._assign(actor)
        peaks = self.ray.get(list(self.peaks.values())) if self.peaks else []
        return ClusterWork(self.work, float(sum(peaks)))

    def _assign(self, actor: Any) -> None:
        """Give an actor the next shard; if none is left, ask it for its device's peak rate."""
        if self.waiting:
            shard = self.waiting.popleft()
            self.running[actor.embed.remote(shard)] = (actor, shard)
        else:
            self.peaks[actor] = actor.peak.remote()

    def _requeue(self, shard: int, error: Exception) -> None:
        self.attempts[shard] += 1
        if self.attempts[shard] == MAX_ATTEMPTS:
            raise ClusterError(
                f"{MAX_ATTEMPTS} actors died one after the other over shard {shard} "
                f"({' '.join(str(error).split())}); see the logs of Ray, and try embed.engine=local"
            ) from error
        self.notify(f"an actor died while it embedded shard {shard}, which is embedded again")
        self.waiting.appendleft(shard)

    def _actors(self) -> tuple[Any, int]:
        """A function that starts an actor, and the number of actors to start."""
        resources = self.ray.cluster_resources()
        gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
        num_actors = self.config.embed.actors or int(gpus or cpus)
        options: dict[str, Any] = {"num_cpus": _resource_share(cpus, num_actors)}
        if gpus:
            options = {"num_gpus": _resource_share(gpus, num_actors), "num_cpus": 0}
        remote = self.ray.remote(ShardActor).options(**options)
        return lambda: remote.remote(self.config, self.plan.facts.job), num_actors


def _resource_share(amount: float, parts: int) -> float:
    """An equal share of a resource, rounded down if above one: Ray allows fractions only below."""
    share = amount / parts
    return float(int(share)) if share >= 1 else share


def _cluster_config(config: Config, plan: Plan) -> Config:
    """The configuration for processes with another working directory and other devices.

    Paths become absolute, and the size of a bin is the plan's.
    """
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
    """Import Ray and connect to the cluster of RAY_ADDRESS, or start one on this machine."""
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
