"""The loop of the embedding pass: bins of a plan in, sealed shards out.

The device is one bin ahead of the vectors that are read back; a shard is sealed before the next
begins. When memory runs out, bins are halved from then on; no sequence is lost.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..cache.lock import FileLock
from ..cache.schema import LOGICAL, Identity, plan_path
from ..cache.writer import shard_path, write_shard
from ..common.errors import UserError
from .backbone import Collect, TorchBackbone
from .disk_space import bytes_left, full_disk_explained
from .nonfinite import FailureGuard
from .plan import Plan
from .throughput import Work

WAIT_SECONDS = 0.5
CPU_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory")
Progress = Callable[[int, int, float], None]  # tokens done, tokens in all, seconds
Notice = Callable[[str], None]
Parts = list[tuple[Sequence[int], Collect]]  # members of a bin, and their vectors to come


class MemoryShortage(UserError):
    """One sequence alone does not fit into the device's memory."""


@dataclass
class BinLimit:
    """The largest bin that there is memory for, as far as is known."""

    tokens: int
    notice: Notice

    def halve(self, found: int) -> None:
        """Remember that a bin of ``found`` tokens was too large."""
        self.tokens = max(1, min(self.tokens, found) // 2)
        self.notice(
            f"out of memory with {found:,} tokens in a forward pass, going on with "
            f"{self.tokens:,}; set embed.bin_tokens to that to begin with it"
        )


def embed_shards(
    backbone: TorchBackbone,
    identity: Identity,
    plan: Plan,
    store: Path,
    part: tuple[int, int],
    progress: Progress,
    notice: Notice,
) -> Work:
    """Embed every shard ``i`` with ``i % part[1] == part[0]`` that nobody else embeds.

    Returns what the backbone has computed. Waits for shards of this part that another process has
    claimed, and takes them over if it dies.
    """
    mine = [n for n in range(plan.facts.shards) if n % part[1] == part[0]]
    limit = BinLimit(plan.facts.bin_tokens, notice)
    guard = FailureGuard.of(backbone, identity.backbone, store)
    total = sum(plan.shard_tokens(n) for n in mine if not plan.is_sealed(store, n))
    done, start = 0, time.monotonic()
    for shard, claim in _claims(plan, store, mine, notice):
        with claim:
            rows = []
            for tokens, vectors in embed_bins(backbone, plan, shard, limit, guard):
                rows.append(vectors)
                done += tokens
                progress(done, total, time.monotonic() - start)
            found = Sealable.of(plan, shard, np.concatenate(rows), guard, notice)
            _write(plan, store, shard, identity, found)
    return backbone.work


def embed_shard(
    backbone: TorchBackbone,
    identity: Identity,
    plan: Plan,
    store: Path,
    shard: int,
    limit: BinLimit,
    guard: FailureGuard,
) -> None:
    """Embed and seal one shard, for somebody who knows that nobody else does."""
    rows = [vectors for _, vectors in embed_bins(backbone, plan, shard, limit, guard)]
    found = Sealable.of(plan, shard, np.concatenate(rows), guard, limit.notice)
    _write(plan, store, shard, identity, found)


@dataclass(frozen=True)
class Sealable:
    """What becomes of a shard: keys and finite vectors, and the keys that have none."""

    keys: np.ndarray
    vectors: np.ndarray
    failed: np.ndarray

    @classmethod
    def of(
        cls, plan: Plan, shard: int, vectors: np.ndarray, guard: FailureGuard, notice: Notice
    ) -> Sealable:
        """Leave out what is not finite; ``StoreError`` if that is too much."""
        keys = plan.keys[plan.members(shard)]
        failed = guard.failed(keys, vectors)
        if not failed.any():
            return cls(keys, vectors, keys[:0])
        notice(
            f"{int(failed.sum())} of {len(keys)} sequences of a shard are left out: the backbone "
            "gives NaN or infinity for them"
        )
        return cls(keys[~failed], vectors[~failed], keys[failed])


def embed_bins(
    backbone: TorchBackbone, plan: Plan, shard: int, limit: BinLimit, guard: FailureGuard
) -> Iterator[tuple[int, np.ndarray]]:
    """Per bin of a shard its tokens and its vectors (n, D), in the order of the plan."""
    waiting: deque[tuple[int, list[np.ndarray], Parts]] = deque()

    def finished() -> tuple[int, np.ndarray]:
        tokens, sequences, parts = waiting.popleft()
        vectors = _collected(backbone, parts)
        guard.settle(sequences, vectors)
        return tokens, vectors

    for tokens, members in plan.bins(shard):
        sequences = [plan.sequence(number) for number in members]
        waiting.append((tokens, sequences, _submit(backbone, sequences, limit)))
        if len(waiting) > 1:
            yield finished()
    while waiting:
        yield finished()


def _collected(backbone: TorchBackbone, parts: Parts) -> np.ndarray:
    size = sum(len(members) for members, _ in parts)
    vectors = np.empty((size, backbone.width), LOGICAL[backbone.dtype])
    for members, collect in parts:
        vectors[list(members)] = collect()
    return vectors


def _submit(backbone: TorchBackbone, sequences: Sequence[np.ndarray], limit: BinLimit) -> Parts:
    """Start a bin, in pieces if memory is short; which sequences each piece holds."""
    bins = backbone.pack(sequences, limit.tokens)
    if len(bins) == 1 and (collect := _try(backbone, sequences)) is not None:
        return [(range(len(sequences)), collect)]
    if len(bins) == 1:
        # Here the exception is gone, and with it what its traceback kept alive.
        gc.collect()
        if backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(sequences) == 1:
            raise MemoryShortage(
                f"a sequence of {len(sequences[0])} tokens alone does not fit into the memory of "
                f"{backbone.device}; lower backbone.max_length or use a device with more memory"
            )
        limit.halve(bins[0].tokens)
        bins = backbone.pack(sequences, limit.tokens)
    if len(bins) == 1:  # one prefix takes most of it: fewer sequences instead of fewer tokens
        ordered = bins[0].members
        halves = (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :])
    else:
        halves = tuple(made.members for made in bins)
    return [
        ([members[place] for place in inner], collect)
        for members in halves
        for inner, collect in _submit(backbone, [sequences[n] for n in members], limit)
    ]


def _try(backbone: TorchBackbone, sequences: Sequence[np.ndarray]) -> Collect | None:
    """A started pass, None if the device has not enough memory for it."""
    try:
        return backbone.submit(sequences)
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if any(message in str(error) for message in CPU_MEMORY_MESSAGES):
            return None
        raise


def _claims(
    plan: Plan, store: Path, mine: Sequence[int], notice: Notice
) -> Iterator[tuple[int, FileLock]]:
    """Shards that are neither sealed nor being embedded, with the right to embed them."""
    told = False
    begun: set[int] = set()
    while left := [n for n in mine if n not in begun and not plan.is_sealed(store, n)]:
        before = len(begun)
        for shard in left:
            claim = FileLock(plan_path(store) / "claims" / f"{shard:06d}.lock")
            if claim.acquire() and not plan.is_sealed(store, shard):
                begun.add(shard)
                yield shard, claim
            else:
                claim.close()
        if len(begun) == before:
            if not told:
                notice("waiting for another process that embeds shards of this part")
            told = True
            time.sleep(WAIT_SECONDS)


def _write(plan: Plan, store: Path, shard: int, identity: Identity, found: Sealable) -> None:
    path = shard_path(store, plan.facts.first_shard + shard)
    with full_disk_explained(store, lambda: bytes_left(plan, store, identity.dtype)):
        write_shard(path, identity, plan.facts.job, found.keys, found.vectors, found.failed)
