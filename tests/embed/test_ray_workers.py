"""Shards on a Ray cluster: dealt in turn, repeated when an actor dies, the store of one worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError
from micro_rm.cache.verify import verify_store
from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import Config, EmbedConfig, StoreConfig
from micro_rm.embed import ray_workers as workers
from micro_rm.embed.ray_workers import ClusterError
from micro_rm.embed.throughput import Work

MICRO_RM = [sys.executable, "-c", "from micro_rm.pipeline import main; raise SystemExit(main())"]
PATIENCE = 240


class FakePlan:
    """Ten shards of 100 tokens, two of them sealed."""

    facts = SimpleNamespace(job="job", bin_tokens=64)

    def pending(self, _store: Path) -> list[int]:
        return [n for n in range(10) if n not in (2, 5)]

    def shard_tokens(self, _shard: int) -> int:
        return 100


class FakeActor:
    """References to what an actor will have done."""

    def __init__(self, number: int) -> None:
        self.embed = SimpleNamespace(remote=lambda shard: (number, "embed", shard))
        self.peak = SimpleNamespace(remote=lambda: (number, "peak", 7.0))


class FakeRay:
    """Runs an actor's call when its result is asked for; the n-th call may kill the actor."""

    class exceptions:
        class RayActorError(Exception):
            pass

        class RayTaskError(Exception):
            cause: Exception

    def __init__(self, deaths: set[int], resources: dict[str, float]) -> None:
        self.deaths = deaths
        self.resources = resources
        self.options: list[dict[str, Any]] = []
        self.started = 0
        self.calls: list[int] = []
        self.error: Exception | None = None

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, _kind: type) -> Any:
        return SimpleNamespace(options=self._options)

    def _options(self, **options: Any) -> Any:
        self.options.append(options)
        return SimpleNamespace(remote=self._start)

    def _start(self, *_arguments: object) -> Any:
        self.started += 1
        return FakeActor(self.started)

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return running[:1], running[1:]

    def get(self, reference: Any) -> Any:
        if isinstance(reference, list):
            return [value for _, _, value in reference]
        _, _, shard = reference
        self.calls.append(shard)
        if self.error is not None:
            failed = self.exceptions.RayTaskError("a long trace")
            failed.cause = self.error
            raise failed
        if len(self.calls) in self.deaths:
            raise self.exceptions.RayActorError("the node is gone")
        return Work(tokens=100, attended=1000), ["said something"] if shard == 7 else []


def run_fake(
    ray: FakeRay, actors: int | None = None
) -> tuple[workers.ClusterWork, list[str], list[tuple[int, int]]]:
    config = Config(embed=EmbedConfig(engine="ray", actors=actors))
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    plan: Any = FakePlan()

    def progress(done: int, total: int, _seconds: float) -> None:
        seen.append((done, total))

    cluster = workers._Cluster(ray, config, plan, Path("store"), progress, said.append)
    return cluster.run(), said, seen


def test_every_pending_shard_is_embedded_once() -> None:
    ray = FakeRay(set(), {"CPU": 3.0})
    done, said, seen = run_fake(ray)
    assert sorted(ray.calls) == [0, 1, 3, 4, 6, 7, 8, 9]
    assert done == workers.ClusterWork(Work(tokens=800, attended=8000), 21.0)
    assert ray.started == 3
    assert said == ["said something"]
    assert seen == [(100 * n, 800) for n in range(1, 9)]


@pytest.mark.parametrize("deaths", [{4}, {2, 5, 9}])
def test_a_dead_actor_is_replaced_and_its_shard_embedded_again(deaths: set[int]) -> None:
    ray = FakeRay(deaths, {"CPU": 3.0})
    done, said, _ = run_fake(ray)
    assert done.work.tokens == 800
    lost = [ray.calls[n - 1] for n in sorted(deaths)]
    assert sorted(ray.calls) == sorted([0, 1, 3, 4, 6, 7, 8, 9, *lost])
    assert [text for text in said if "died" in text] == [
        f"an actor died while it embedded shard {shard}, which is embedded again" for shard in lost
    ]
    assert ray.started == 3 + len(deaths)


def test_actors_that_keep_dying_end_the_job_with_a_remedy() -> None:
    ray = FakeRay(set(range(1, 99)), {"CPU": 1.0})
    with pytest.raises(ClusterError, match=r"4 actors died .* shard 0 .*embed\.engine=local"):
        run_fake(ray)
    assert ray.calls == [0, 0, 0, 0]


def test_what_an_actor_found_wrong_is_what_the_user_reads() -> None:
    ray = FakeRay(set(), {"CPU": 1.0})
    ray.error = StoreError("NaN in shard 0")
    with pytest.raises(StoreError, match="NaN in shard 0"):
        run_fake(ray)


@pytest.mark.parametrize(
    ("resources", "actors", "started", "options"),
    [
        ({"CPU": 16.0, "GPU": 4.0}, None, 4, {"num_gpus": 1.0, "num_cpus": 0}),
        ({"CPU": 16.0, "GPU": 2.0}, 4, 4, {"num_gpus": 0.5, "num_cpus": 0}),
        ({"CPU": 7.0}, 3, 3, {"num_cpus": 2.0}),
        ({"CPU": 2.0}, 4, 4, {"num_cpus": 0.5}),
        ({"CPU": 64.0}, None, 8, {"num_cpus": 1.0}),  # no more than there are shards
    ],
)
def test_actors_share_the_cluster_equally(
    resources: dict[str, float], actors: int | None, started: int, options: dict[str, float]
) -> None:
    ray = FakeRay(set(), resources)
    run_fake(ray, actors)
    assert ray.options == [options]
    assert ray.started == started


def test_paths_mean_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = Config(store=StoreConfig(dir="store"))
    config = replace(config, backbone=replace(config.backbone, name="model"))
    plan: Any = FakePlan()
    placed = workers._cluster_config(config, plan)
    assert placed.store.dir == str(tmp_path / "store")
    assert placed.backbone.name == str(tmp_path / "model")
    assert placed.embed.bin_tokens == 64
    hub = replace(config, backbone=replace(config.backbone, name="some/hub-id"))
    assert workers._cluster_config(hub, plan).backbone.name == "some/hub-id"


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'micro-rm\[ray\]'"):
        workers._connect(None)


@pytest.fixture
def job(
    tmp_path: Path,
    make_tokenizer: Callable[..., Any],
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
) -> list[str]:
    """An embedding command, store left open, large enough that a kill finds work to disturb."""
    tokenizer = make_tokenizer("llama")
    tokenizer.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads))
    model.save_pretrained(tmp_path / "model")
    data = write_rows(tmp_path / "rows.jsonl", preference_rows(400))
    settings = {
        "data.name": "rows",
        "data.train": data,
        "backbone.name": tmp_path / "model",
        "backbone.dtype": "float32",
        "embed.device": "cpu",
        "embed.bin_tokens": 512,
        "embed.shard_tokens": 512,
    }
    return [*MICRO_RM, "embed", "--json", *(f"--{key}={value}" for key, value in settings.items())]


@pytest.mark.long
def test_three_actors_one_killed_give_the_store_of_a_single_worker(
    job: list[str], tmp_path: Path
) -> None:
    # Actors have a core each: another number of threads would sum in another order.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = subprocess.run(
        [*job, f"--store.dir={tmp_path / 'one'}"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=PATIENCE,
    )
    shards = json.loads(alone.stdout)["shards"]
    store = tmp_path / "three"
    cluster = subprocess.Popen(
        [*job, f"--store.dir={store}", "--engine=ray", "--embed.actors=3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sealed = _kill_an_actor(cluster, store)
    output, errors = cluster.communicate(timeout=PATIENCE)
    assert cluster.returncode == 0, errors
    assert 0 < sealed < shards
    result = json.loads(output)
    assert result["pending_shards"] == 0
    # Work counts completed shards only: none was computed twice and counted.
    assert result["computed_tokens"] == result["tokens"]
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.h5"))
    assert len(files) == shards + 1
    for file in [*files, Path("manifest.json")]:
        assert (store / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    keys = FeatureStore(store).keys()
    assert len(set(keys.tolist())) == len(keys)
    assert verify_store(store).problems == []


def _kill_an_actor(cluster: subprocess.Popen[str], store: Path) -> int:
    """Kill one actor with signal 9 when the first shard is sealed; how many were by then."""
    deadline = time.monotonic() + PATIENCE
    driver = psutil.Process(cluster.pid)
    while time.monotonic() < deadline and cluster.poll() is None:
        sealed = len(list((store / "shards").glob("*.h5")))
        if sealed:
            for child in driver.children(recursive=True):
                if child.name().startswith("ray::ShardActor"):
                    os.kill(child.pid, signal.SIGKILL)
                    return sealed
        time.sleep(0.02)
    raise AssertionError("no actor was found")
