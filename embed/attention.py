"""Attention of a bin of trees: each run of queries sees its own branch, and no mask spans a bin.

Three ways to compute the same thing. ``by_run`` works anywhere: one call per run. ``by_varlen``
gathers the branches and makes one variable-length call (CUDA, 16 bit). ``by_flex`` is for what that
kernel lacks (32 bit, soft-capping). Queries are (1, H, Q, D), keys and values (1, G, T, D) with H a
multiple of G; the result is (1, Q, H, D). A window counts the query itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .trees import Layout, Run


@dataclass(frozen=True)
class Scores:
    """How a layer turns queries and keys into weights: scale, sliding window, soft-capping."""

    scale: float | None
    window: int | None
    softcap: float | None


class Masks:
    """The masks of a bin's runs, each made once for all layers."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int | None], Tensor] = {}

    def get(self, like: Tensor, queries: int, keys: int, window: int | None) -> Tensor:
        """(queries, keys) in the type of ``like``: 0 where a query sees a key, else -inf."""
        name = (queries, keys, window)
        if name not in self._made:
            # Aligned at the end: SDPA's own is_causal is aligned at the start.
            seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
            seen = seen.tril(keys - queries)
            if window is not None:
                seen = seen.triu(keys - queries - window + 1)
            hidden = like.new_full((), float("-inf"))
            self._made[name] = torch.where(seen, like.new_zeros(()), hidden)
        return self._made[name]


def by_run(
    query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], how: Scores, masks: Masks
) -> Tensor:
    """One call per run."""
    out = query.new_empty((1, query.shape[2], *query.shape[1::2]))
    for run in runs:
        seen = [slice(start, stop) for start, stop in run.pieces]
        if len(seen) == 1:
            keys, values = key[:, :, seen[0]], value[:, :, seen[0]]
        else:
            keys = torch.cat([key[:, :, part] for part in seen], 2)
            values = torch.cat([value[:, :, part] for part in seen], 2)
        queries = query[:, :, run.start : run.stop]
        found = _one_run(queries, keys, values, how, masks)
        out[:, run.start : run.stop] = found.transpose(1, 2)
    return out


def _one_run(query: Tensor, key: Tensor, value: Tensor, how: Scores, masks: Masks) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    window = None if how.window is None or keys <= how.window else how.window
    square = queries == keys and window is None
    if how.softcap is not None:
        return _soft_capped(query, key, value, masks.get(query, queries, keys, window), how)
    mask = None
    if not square and (queries > 1 or window is not None):
        mask = masks.get(query, queries, keys, window)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=square and queries > 1,
        scale=how.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _soft_capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: Scores) -> Tensor:
    assert how.softcap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if how.scale is None else how.scale
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / how.softcap)) * how.softcap
    return (scores + mask).softmax(-1, dtype=torch.float32).to(query.dtype) @ value


@dataclass(frozen=True)
class Gather:
    """The keys of all runs one after the other, and where each run begins, for one call."""

    rows: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


def gather(runs: Sequence[Run], device: torch.device) -> Gather:
    """Where the keys of the runs are; the runs' queries must be in order and without gaps."""
    parts = [np.arange(start, stop) for run in runs for start, stop in run.pieces]
    queries, keys = [run.queries for run in runs], [run.keys for run in runs]
    return Gather(
        rows=torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True),
        query_starts=_starts(queries, device),
        key_starts=_starts(keys, device),
        longest_query=max(queries),
        longest_key=max(keys),
    )


def by_varlen(query: Tensor, key: Tensor, value: Tensor, plan: Gather, how: Scores) -> Tensor:
    """One call for all runs; 16 bit on CUDA only."""
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_options()
    keys, values = key[0].transpose(0, 1)[plan.rows], value[0].transpose(0, 1)[plan.rows]
    options: dict[str, Any] = {"scale": how.scale}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        elif "window_size" not in known:  # those in between share keys without being asked
            groups = query.shape[1] // key.shape[1]
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    if "window_size" in known:
        options["window_size"] = (-1 if how.window is None else how.window - 1, 0)
    else:
        options["is_causal"] = True
    out = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        plan.query_starts,
        plan.key_starts,
        plan.longest_query,
        plan.longest_key,
        **options,
    )
    assert isinstance(out, Tensor)
    return out[None]


def varlen_serves(device: torch.device, dtype: torch.dtype, how: Scores) -> bool:
    """Whether ``by_varlen`` can compute this."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and how.softcap is None
        and (how.window is None or "window_size" in _varlen_options())
        and "scale" in _varlen_options()
    )


def block_mask(ends: Tensor, positions: Tensor, window: int | None) -> Any:
    """What ``by_flex`` needs to know of a bin: which tokens see which, for a window.

    While it is made, it holds (T, T) booleans.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        on_branch = (column <= row) & (row < ends[column])
        if window is None:
            return on_branch
        return on_branch & (positions[row] - positions[column] < window)

    size = len(ends)
    return create_block_mask(visible, None, None, size, size, device=str(ends.device))


def by_flex(query: Tensor, key: Tensor, value: Tensor, blocks: Any, how: Scores) -> Tensor:
    """One call with a block mask; queries and keys must be the same T tokens."""
    from torch.nn.attention.flex_attention import flex_attention

    def capped(
        score: Tensor, _batch: Tensor, _head: Tensor, _row: Tensor, _column: Tensor
    ) -> Tensor:
        assert how.softcap is not None
        return torch.tanh(score / how.softcap) * how.softcap

    compiled = query.device.type == "cuda"
    call: Any = _compiled_flex() if compiled else flex_attention
    out = call(
        query,
        key,
        value,
        score_mod=None if how.softcap is None else capped,
        block_mask=blocks,
        scale=how.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Without fullgraph it would fall back, unfused, to scores of all T x T tokens.
    return torch.compile(flex_attention, fullgraph=True)


@cache
def _varlen_options() -> frozenset[str]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _starts(sizes: Sequence[int], device: torch.device) -> Tensor:
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return torch.from_numpy(starts).to(device, non_blocking=True)


def visible_keys(layout: Layout) -> int:
    """Pairs of query and visible key in a bin: what attention has to compute."""
    return sum(run.queries * run.keys - run.queries * (run.queries - 1) // 2 for run in layout.runs)
