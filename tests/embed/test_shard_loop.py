"""The embedding loop: each shard once, the same vectors in any circumstances, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micro_rm.cache.lock import FileLock
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError, plan_path
from micro_rm.cache.verify import verify_store
from micro_rm.cache.writer import open_manifest, shard_path
from micro_rm.embed import shard_loop
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.shard_loop import embed_shards
from micro_rm.tests.embed.shard_runs import SMALL, run, stored

RelativeError = Callable[..., float]
Prepare = Callable[..., tuple[Encoder, Plan]]
FAMILIES = ("llama", "qwen2", "gpt2", "bert")


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((store / "shards").iterdir())}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_store_holds_what_embedding_one_by_one_gives(
    family: str, prepare: Prepare, relative_error: RelativeError, tmp_path: Path
) -> None:
    """Every sequence, finite, equal to a pass of its own without sharing."""
    made, plan = prepare(family, tmp_path)
    actual = run(made, plan, tmp_path)
    assert len(FeatureStore(tmp_path)) == plan.facts.sequences
    assert np.isfinite(actual).all()
    expected = [
        made.backbone.reference_vector(plan.sequence(n)) for n in range(plan.facts.sequences)
    ]
    assert relative_error(actual, np.array(expected)) < 1e-5
    keys = [plan.keys[plan.members(shard)].tobytes() for shard in range(plan.facts.shards)]
    assert FeatureStore(tmp_path).keys().tobytes() == b"".join(keys)
    assert verify_store(tmp_path).problems == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"bin_tokens": 1}),
        ("llama", {"bin_tokens": 10_000}),
        ("llama", {"shard_tokens": 1}),
        ("llama", {"shard_tokens": 10**6}),
        ("gpt2", {"share_prefixes": False}),
        ("bert", {"bin_tokens": 1}),
    ],
)
def test_how_the_pass_runs_changes_no_vector(
    family: str,
    changes: dict[str, Any],
    prepare: Prepare,
    relative_error: RelativeError,
    tmp_path: Path,
) -> None:
    """Bins, shards and sharing are no part of the identity."""
    made, plan = prepare(family, tmp_path / "a", 12)
    other, same = prepare(family, tmp_path / "b", 12, replace(SMALL, **changes))
    assert made.identity == other.identity
    assert plan.keys.tobytes() == same.keys.tobytes()
    first, second = run(made, plan, tmp_path / "a"), run(other, same, tmp_path / "b")
    assert relative_error(second, first) < 1e-5


def test_every_shard_is_written_once_and_by_its_own_part(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = prepare("llama", tmp_path)
    assert plan.facts.shards > 3
    written: list[int] = []
    honest = shard_loop.write_shard

    def write(path: Path, *content: Any) -> None:
        written.append(int(path.stem))
        honest(path, *content)

    monkeypatch.setattr(shard_loop, "write_shard", write)
    for part, parts in ((1, 3), (0, 3), (1, 3), (2, 3)):
        before = len(written)
        run(made, plan, tmp_path, (part, parts))
        assert all(number % parts == part for number in written[before:])
    assert sorted(written) == list(range(plan.facts.shards))


def test_parts_make_the_files_that_one_process_makes(prepare: Prepare, tmp_path: Path) -> None:
    made, plan = prepare("llama", tmp_path / "whole")
    run(made, plan, tmp_path / "whole")
    for part in (2, 0, 1):
        run(made, plan, tmp_path / "parts", (part, 3))
    assert shards(tmp_path / "parts") == shards(tmp_path / "whole")


def test_a_job_of_several_jobs_before_goes_on_behind_their_shards(
    prepare: Prepare, tmp_path: Path
) -> None:
    for rows in (8, 24):
        made, plan = prepare("llama", tmp_path, rows)
        before = shards(tmp_path) if rows == 24 else {}
        run(made, plan, tmp_path)
    assert before and before.items() <= shards(tmp_path).items()
    assert plan.facts.first_shard == len(before)
    assert np.isfinite(stored(plan, tmp_path)).all()
    assert len(FeatureStore(tmp_path)) == plan.facts.sequences


def test_what_two_workers_embed_side_by_side_is_embedded_once(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = prepare("llama", tmp_path)
    other = load_encoder(made.config, SMALL)
    assert other.identity == made.identity
    open_manifest(tmp_path, made.identity, made.backbone.width)
    monkeypatch.setattr(shard_loop, "WAIT_SECONDS", 0.01)
    barrier = threading.Barrier(2)

    def work(worker: Encoder) -> int:
        barrier.wait()
        before = worker.backbone.work.tokens
        embed_shards(
            worker.backbone,
            worker.identity,
            plan,
            tmp_path,
            (0, 1),
            lambda *_: None,
            lambda _: None,
        )
        return worker.backbone.work.tokens - before

    with ThreadPoolExecutor(2) as pool:
        tokens = list(pool.map(work, (made, other)))
    assert sum(tokens) == plan.facts.tokens
    assert np.isfinite(stored(plan, tmp_path)).all()


def test_a_shard_whose_owner_dies_is_taken_over(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_loop, "WAIT_SECONDS", 0.01)
    made, plan = prepare("llama", tmp_path)
    claim = FileLock(plan_path(tmp_path) / "claims" / "000001.lock")
    assert claim.acquire()
    notices: list[str] = []

    def die(text: str) -> None:
        notices.append(text)
        assert not shard_path(tmp_path, 1).exists()
        sealed = list((tmp_path / "shards").glob("*.h5"))
        assert len(sealed) >= plan.facts.shards - 2  # the last one is being sealed
        claim.close()

    actual = run(made, plan, tmp_path, notify=die)
    assert notices == ["waiting for another process that embeds shards of this part"]
    assert np.isfinite(actual).all()


def test_progress_of_a_part_counts_what_is_left_of_it(prepare: Prepare, tmp_path: Path) -> None:
    made, plan = prepare("llama", tmp_path)
    run(made, plan, tmp_path, (0, plan.facts.shards))
    seen: list[tuple[int, int]] = []
    run(made, plan, tmp_path, (0, 2), lambda done, total, _: seen.append((done, total)))
    left = sum(plan.shard_tokens(shard) for shard in range(2, plan.facts.shards, 2))
    done = [done for done, _ in seen]
    assert len(done) > 1 and done == sorted(set(done))
    assert seen[-1] == (left, left)


def test_an_interrupted_job_goes_on_and_ends_with_the_same_files(
    prepare: Prepare, tmp_path: Path
) -> None:
    """Whole shards stay. The one that was interrupted is free again in the same process, too."""
    made, plan = prepare("llama", tmp_path / "whole")
    run(made, plan, tmp_path / "whole")
    begun = iter(range(1, plan.facts.bins))

    def interrupt(done: int, total: int, seconds: float) -> None:
        if next(begun) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, plan, tmp_path / "cut", progress=interrupt)
    sealed = shards(tmp_path / "cut")
    assert len(sealed) < plan.facts.shards
    notices: list[str] = []
    run(made, plan, tmp_path / "cut", notify=notices.append)
    assert notices == []
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")


def test_a_vector_that_is_not_finite_stops_the_job(
    prepare: Prepare, settings: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing of its shard is written."""
    made = load_encoder(settings("llama"), SMALL)
    _, plan = prepare("llama", tmp_path / "store", made=made)
    with torch.no_grad():
        made.backbone.model.norm.weight[3] = float("nan")
    with pytest.raises(StoreError, match="NaN or infinity"):
        run(made, plan, tmp_path / "store")
    assert shards(tmp_path / "store") == {}
