"""Out of memory in the embedding loop: bins are cut until they fit, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from micro_rm.embed import shard_loop
from micro_rm.embed.backbone import Collect
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.shard_loop import BinLimit, MemoryShortage
from micro_rm.tests.embed.shard_runs import run

RelativeError = Callable[..., float]
Prepare = Callable[..., tuple[Encoder, Plan]]

CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"
MEMORY_ERRORS = (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU), MemoryError())


class ScarceMemory:
    """A backbone's ``submit`` on a device that has memory for so many distinct tokens."""

    def __init__(self, made: Encoder, capacity: int, error: BaseException) -> None:
        self.honest = made.backbone.submit
        self.pack = made.backbone.pack
        self.capacity = capacity
        self.error = error
        self.failed: list[int] = []
        self.sizes: list[int] = []

    def __call__(self, sequences: Sequence[np.ndarray]) -> Collect:
        size = sum(made.tokens for made in self.pack(sequences, 10**9))
        if size > self.capacity:
            self.failed.append(size)
            raise self.error
        self.sizes.append(size)
        return self.honest(sequences)


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "error"), [("bert", MEMORY_ERRORS[1]), ("llama", MEMORY_ERRORS[2])]
)
def test_nothing_is_lost_when_memory_runs_out(
    family: str,
    error: BaseException,
    prepare: Prepare,
    relative_error: RelativeError,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, plan = prepare(family, tmp_path / "roomy")
    expected = run(made, plan, tmp_path / "roomy")
    small = ScarceMemory(made, int(plan.lengths.max()) + 10, error)
    monkeypatch.setattr(made.backbone, "submit", small)
    actual = run(made, plan, tmp_path / "small")
    assert small.failed
    assert relative_error(actual, expected) < 1e-5


def test_the_limit_that_was_found_is_remembered_and_told(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error in all: later bins are cut before they are tried."""
    made, plan = prepare("llama", tmp_path)
    small = ScarceMemory(made, 120, MEMORY_ERRORS[0])
    monkeypatch.setattr(made.backbone, "submit", small)
    notices: list[str] = []
    run(made, plan, tmp_path, notify=notices.append)
    assert len(small.failed) == len(notices) == 1
    (tokens,) = small.failed
    assert notices[0] == (
        f"out of memory with {tokens:,} tokens in a forward pass, going on with {tokens // 2:,}; "
        f"set embed.bin_tokens to that to begin with it"
    )
    assert max(small.sizes) <= tokens // 2
    assert len(small.sizes) > plan.facts.bins


def test_the_limit_is_halved_again_and_again(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = prepare("llama", tmp_path)
    small = ScarceMemory(made, int(plan.lengths.max()) + 1, MEMORY_ERRORS[0])
    monkeypatch.setattr(made.backbone, "submit", small)
    notices: list[str] = []
    actual = run(made, plan, tmp_path, notify=notices.append)
    assert np.isfinite(actual).all()
    assert len(notices) == len(small.failed) >= 2


def test_a_limit_goes_down_to_half_of_what_failed_and_never_below_one() -> None:
    for limit, failed_tokens, expected in ((100, 80, 40), (100, 300, 50), (3, 3, 1), (1, 9, 1)):
        made = BinLimit(limit, lambda _: None)
        made.halve(failed_tokens)
        assert made.tokens == expected


def test_a_sequence_that_does_not_fit_alone_is_an_error_with_a_remedy(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = prepare("llama", tmp_path)
    longest = int(plan.lengths.max())
    monkeypatch.setattr(made.backbone, "submit", ScarceMemory(made, longest - 1, MEMORY_ERRORS[0]))
    message = rf"a sequence of {longest} tokens alone does not fit .* lower backbone\.max_length"
    with pytest.raises(MemoryShortage, match=message):
        run(made, plan, tmp_path)


def test_one_long_prefix_is_computed_with_fewer_and_fewer_branches(
    encoder: Callable[..., Encoder], relative_error: RelativeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a long prefix a smaller bin has the same tokens: then it is cut in halves.

    Whatever the order of the sequences, each vector comes back in its own place.
    """
    made = encoder("llama")
    prefix = np.arange(60, dtype=np.int32) + 20
    sequences = [np.append(prefix, np.int32(index)) for index in (5, 1, 7, 0, 4, 2, 6, 3)]
    expected = [made.backbone.reference_vector(ids) for ids in sequences]
    monkeypatch.setattr(made.backbone, "submit", ScarceMemory(made, 62, MEMORY_ERRORS[0]))
    parts = shard_loop._submit(made.backbone, sequences, BinLimit(1, lambda _: None))
    assert all(len(members) <= 2 for members, _ in parts)
    actual = shard_loop._collect(made.backbone, parts)
    assert relative_error(actual, np.array(expected)) < 1e-5


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = prepare("llama", tmp_path)
    error = RuntimeError("expected scalar type Half")
    monkeypatch.setattr(made.backbone, "submit", ScarceMemory(made, 0, error))
    with pytest.raises(RuntimeError, match=str(error)):
        run(made, plan, tmp_path)
