"""The loop of the embedding pass: from the bins of a plan to sealed shards.

The device computes one bin while the vectors of the bin before are read back. A shard is sealed
before the next one begins. If the device runs out of memory, this bin and all later ones are
halved; no sequence is lost.
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
from .disk_space import explain_full_disk, required_space
from .nonfinite import FailureGuard
from .plan import Plan
from .throughput import Work

WAIT_SECONDS = 0.5
CPU_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory")
ProgressCallback = Callable[[int, int, float], None]  # tokens done, tokens in all, seconds
NotifyCallback = Callable[[str], None]  # a message for the user
# A bin in progress, in one or more passes: positions within the bin, and their pending vectors.
Parts = list[tuple[Sequence[int], Collect]]


class MemoryShortage(UserError):
    """The device does not have enough memory for a single sequence."""


@dataclass
class BinLimit:
    """The largest bin that fits into the device's memory, as far as is known."""

    tokens: int
    notify: NotifyCallback

    def halve(self, failed_tokens: int) -> None:
        """Lower the limit after a bin of ``failed_tokens`` ran out of memory."""
        self.tokens = max(1, min(self.tokens, failed_tokens) // 2)
        self.notify(
            f"out of memory with {failed_tokens:,} tokens in a forward pass, going on with "
            f"{self.tokens:,}; set embed.bin_tokens to that to begin with it"
        )


def embed_shards(
    backbone: TorchBackbone,
    identity: Identity,
    plan: Plan,
    store: Path,
    part: tuple[int, int],
    progress: ProgressCallback,
    notify: NotifyCallback,
) -> Work:
    """Embed and seal the shards of one part, alongside other processes.

    Waits for shards of this part that another process has claimed, and takes them over if that
    process dies.

    Args:
        backbone: The model.
        identity: What the shards say of their vectors.
        plan: The plan of the job.
        store: Directory of the store.
        part: ``(i, n)`` for the shards whose number is ``i`` modulo ``n``.
        progress: Called after each bin.
        notify: Called with messages for the user.

    Returns:
        What the backbone has computed since it was loaded.
    """
    mine = [shard for shard in range(plan.facts.shards) if shard % part[1] == part[0]]
    limit = BinLimit(plan.facts.bin_tokens, notify)
    guard = FailureGuard.for_store(backbone, identity.backbone, store)
    total = sum(plan.shard_tokens(shard) for shard in mine if not plan.is_sealed(store, shard))
    done, start = 0, time.monotonic()
    for shard, claim in _claims(plan, store, mine, notify):
        with claim:
            parts = []
            for tokens, vectors in embed_bins(backbone, plan, shard, limit, guard):
                parts.append(vectors)
                done += tokens
                progress(done, total, time.monotonic() - start)
            vectors = np.concatenate(parts)
            content = ShardContent.from_vectors(plan, shard, vectors, guard, notify)
            _write(plan, store, shard, identity, content)
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
    """Embed and seal one shard. The caller guarantees exclusive ownership of the shard."""
    parts = [vectors for _, vectors in embed_bins(backbone, plan, shard, limit, guard)]
    content = ShardContent.from_vectors(plan, shard, np.concatenate(parts), guard, limit.notify)
    _write(plan, store, shard, identity, content)


@dataclass(frozen=True)
class ShardContent:
    """Keys and finite vectors of a shard, and the keys of sequences that have none."""

    keys: np.ndarray
    vectors: np.ndarray
    failed: np.ndarray

    @classmethod
    def from_vectors(
        cls,
        plan: Plan,
        shard: int,
        vectors: np.ndarray,
        guard: FailureGuard,
        notify: NotifyCallback,
    ) -> ShardContent:
        """Separate the finite vectors (n, D); ``StoreError`` if too many are not finite."""
        keys = plan.keys[plan.members(shard)]
        failed = guard.failed_mask(keys, vectors)
        if not failed.any():
            return cls(keys, vectors, keys[:0])
        notify(
            f"{int(failed.sum())} of {len(keys)} sequences of a shard are left out: the backbone "
            "gives NaN or infinity for them"
        )
        return cls(keys[~failed], vectors[~failed], keys[failed])


def embed_bins(
    backbone: TorchBackbone, plan: Plan, shard: int, limit: BinLimit, guard: FailureGuard
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the tokens and the vectors (n, D) of each bin of a shard, in the order of the plan."""
    in_flight: deque[tuple[int, list[np.ndarray], Parts]] = deque()

    def collect_oldest() -> tuple[int, np.ndarray]:
        tokens, sequences, parts = in_flight.popleft()
        vectors = _collect(backbone, parts)
        guard.recompute_nonfinite(sequences, vectors)
        return tokens, vectors

    for tokens, members in plan.bins(shard):
        sequences = [plan.sequence(index) for index in members]
        in_flight.append((tokens, sequences, _submit(backbone, sequences, limit)))
        # Read a bin back only once the next one is queued, so that the device is never idle.
        if len(in_flight) > 1:
            yield collect_oldest()
    while in_flight:
        yield collect_oldest()


def _collect(backbone: TorchBackbone, parts: Parts) -> np.ndarray:
    """Wait for a bin's passes and put their vectors in the order of the bin."""
    size = sum(len(members) for members, _ in parts)
    vectors = np.empty((size, backbone.width), LOGICAL[backbone.dtype])
    for members, collect in parts:
        vectors[list(members)] = collect()
    return vectors


def _submit(backbone: TorchBackbone, sequences: Sequence[np.ndarray], limit: BinLimit) -> Parts:
    """Start the passes of a bin: one, or several where memory is short."""
    # Under a lowered limit the bin of the plan falls into several.
    bins = backbone.pack(sequences, limit.tokens)
    if len(bins) == 1 and (collect := _try(backbone, sequences)) is not None:
        return [(range(len(sequences)), collect)]
    if len(bins) == 1:
        # _try has dropped the exception, whose traceback kept the tensors of the pass alive.
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
    if len(bins) == 1:
        # A long shared prefix lets a bin exceed the limit: halve its sequences instead.
        ordered = bins[0].members
        groups = (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :])
    else:
        groups = tuple(packed.members for packed in bins)
    # The recursion counts within each group; translate back to positions in the bin.
    return [
        ([members[position] for position in inner], collect)
        for members in groups
        for inner, collect in _submit(backbone, [sequences[index] for index in members], limit)
    ]


def _try(backbone: TorchBackbone, sequences: Sequence[np.ndarray]) -> Collect | None:
    """Start a pass; None if the device has not enough memory for it."""
    try:
        return backbone.submit(sequences)
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if any(message in str(error) for message in CPU_MEMORY_MESSAGES):
            return None
        raise


def _claims(
    plan: Plan, store: Path, mine: Sequence[int], notify: NotifyCallback
) -> Iterator[tuple[int, FileLock]]:
    """Yield each shard that is neither sealed nor claimed by another process, with its lock held.

    Ends when all of ``mine`` are sealed.
    """
    notified = False
    begun: set[int] = set()
    while left := [n for n in mine if n not in begun and not plan.is_sealed(store, n)]:
        before = len(begun)
        for shard in left:
            claim = FileLock(plan_path(store) / "claims" / f"{shard:06d}.lock")
            # Its owner may have sealed it between the check above and the lock.
            if claim.acquire() and not plan.is_sealed(store, shard):
                begun.add(shard)
                yield shard, claim
            else:
                claim.close()
        if len(begun) == before:
            if not notified:
                notify("waiting for another process that embeds shards of this part")
            notified = True
            time.sleep(WAIT_SECONDS)


def _write(plan: Plan, store: Path, shard: int, identity: Identity, content: ShardContent) -> None:
    path = shard_path(store, plan.facts.first_shard + shard)
    with explain_full_disk(store, lambda: required_space(plan, store, identity.dtype)):
        write_shard(path, identity, plan.facts.job, content.keys, content.vectors, content.failed)
