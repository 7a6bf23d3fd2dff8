"""From distinct token sequences to forward passes: pure functions, no torch.

With a causal backbone a sequence that is a prefix of another one needs no pass of its own: its
vector is read from the longer pass at its last position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pass:
    """One row of a batch: token ids, and the positions whose states answer to ``keys``."""

    token_ids: np.ndarray
    readouts: tuple[int, ...]
    keys: tuple[bytes, ...]


def plan_passes(sequences: Mapping[bytes, np.ndarray], *, share_prefixes: bool) -> list[Pass]:
    """Passes that read out every sequence exactly once, in an order that depends on ids only.

    ``sequences`` maps keys to int32 token ids. Sorted as big-endian bytes, a sequence is a prefix
    of another one exactly if it is a prefix of its successor.
    """
    ordered = sorted((ids.astype(">i4").tobytes(), key) for key, ids in sequences.items())
    hosts: list[list[bytes]] = []
    for place in range(len(ordered) - 1, -1, -1):
        spelled, key = ordered[place]
        follows = place + 1 < len(ordered) and ordered[place + 1][0].startswith(spelled)
        if share_prefixes and follows:
            hosts[-1].append(key)
        else:
            hosts.append([key])
    return [
        Pass(
            token_ids=sequences[keys[0]],
            readouts=tuple(len(sequences[key]) - 1 for key in keys),
            keys=tuple(keys),
        )
        for keys in hosts
    ]


def plan_batches(passes: Sequence[Pass], batch_tokens: int) -> list[list[Pass]]:
    """Batches of similar length, longest first, of at most ``batch_tokens`` padded tokens.

    Longest first, so that a memory error shows at once; a pass longer than the budget gets a batch
    of its own.
    """
    ordered = sorted(passes, key=lambda item: (-len(item.token_ids), item.keys[0]))
    batches: list[list[Pass]] = []
    for item in ordered:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].token_ids) <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def without(item: Pass, stored: set[bytes]) -> Pass | None:
    """The pass with only the read-outs that are not stored yet, None if none is left.

    Tokens behind the last remaining read-out are cut: nothing reads them.
    """
    left = [
        (place, key)
        for place, key in zip(item.readouts, item.keys, strict=True)
        if key not in stored
    ]
    if len(left) == len(item.keys):
        return item
    if not left:
        return None
    end = max(place for place, _ in left) + 1
    return Pass(
        token_ids=item.token_ids[:end],
        readouts=tuple(place for place, _ in left),
        keys=tuple(key for _, key in left),
    )
