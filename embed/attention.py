"""Attention over a bin of prefix trees, in which each run of queries sees its own branch only.

Three implementations compute the same result, none of which needs a (T, T) mask in memory:

- ``by_run`` makes one SDPA call per run and works on any device.
- ``by_varlen`` gathers the keys of all runs and makes one variable-length FlashAttention call
  (CUDA, 16-bit).
- ``by_flex`` makes one FlexAttention call, for what the variable-length kernel does not support
  (32-bit, logit soft-capping).

Queries are (1, H, Q, D), keys and values (1, G, T, D), where H is a multiple of G (grouped-query
attention); the result is (1, Q, H, D).
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

from .trees import Layout, QueryRun


@dataclass(frozen=True)
class AttentionOptions:
    """What a layer prescribes for its attention; each may be None.

    Attributes:
        scale: Factor of the logits; None means ``D ** -0.5``.
        window: Sliding window in tokens, the query included.
        softcap: Bound ``c`` of the logits, as in ``c * tanh(logits / c)``.
    """

    scale: float | None
    window: int | None
    softcap: float | None


class MaskCache:
    """Additive masks by shape and window: one bin's layers share them."""

    def __init__(self) -> None:
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def get(self, like: Tensor, queries: int, keys: int, window: int | None) -> Tensor:
        """A causal mask (queries, keys) of the last queries of a branch, in the dtype of ``like``.

        It is 0 where a query sees a key, else -inf.
        """
        shape = (queries, keys, window)
        if shape not in self._masks:
            # The last query sees the last key. SDPA's own is_causal aligns the first ones instead.
            seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
            seen = seen.tril(keys - queries)
            if window is not None:
                seen = seen.triu(keys - queries - window + 1)
            hidden = like.new_full((), float("-inf"))
            self._masks[shape] = torch.where(seen, like.new_zeros(()), hidden)
        return self._masks[shape]


def by_run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    runs: Sequence[QueryRun],
    options: AttentionOptions,
    masks: MaskCache,
) -> Tensor:
    """Attend with one SDPA call per run, on any device and in any dtype."""
    out = query.new_empty((1, query.shape[2], *query.shape[1::2]))
    for run in runs:
        branch = [slice(start, stop) for start, stop in run.key_ranges]
        if len(branch) == 1:
            # A view is enough where the branch is contiguous.
            keys, values = key[:, :, branch[0]], value[:, :, branch[0]]
        else:
            keys = torch.cat([key[:, :, part] for part in branch], 2)
            values = torch.cat([value[:, :, part] for part in branch], 2)
        queries = query[:, :, run.start : run.stop]
        result = _one_run(queries, keys, values, options, masks)
        out[:, run.start : run.stop] = result.transpose(1, 2)
    return out


def _one_run(
    query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions, masks: MaskCache
) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    # A window of at least the whole branch hides nothing.
    window = None if options.window is None or keys <= options.window else options.window
    # Only with as many queries as keys does SDPA's is_causal mean what is needed here; it is
    # faster than a mask. A single query without a window sees every key and needs neither.
    square = queries == keys and window is None
    if options.softcap is not None:
        return _soft_capped(query, key, value, masks.get(query, queries, keys, window), options)
    mask = None
    if not square and (queries > 1 or window is not None):
        mask = masks.get(query, queries, keys, window)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=square and queries > 1,
        scale=options.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _soft_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, options: AttentionOptions
) -> Tensor:
    assert options.softcap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if options.scale is None else options.scale
    logits = query @ key.transpose(2, 3) * (scale / options.softcap)
    logits = torch.tanh(logits) * options.softcap
    return (logits + mask).softmax(-1, dtype=torch.float32).to(query.dtype) @ value


@dataclass(frozen=True)
class VarlenIndex:
    """R runs as a ragged batch for variable-length attention.

    Attributes:
        key_rows: (K,) indices of all runs' keys in the bin, run after run. A key is repeated for
            every run that sees it.
        query_offsets: (R + 1,) int32, cumulative numbers of queries (``cu_seq_q``).
        key_offsets: (R + 1,) int32, cumulative numbers of keys (``cu_seq_k``).
        max_queries: Most queries of a run.
        max_keys: Most keys of a run.
    """

    key_rows: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    max_queries: int
    max_keys: int


def varlen_index(runs: Sequence[QueryRun], device: torch.device) -> VarlenIndex:
    """Index the keys of runs whose queries are in order and without gaps."""
    key_rows = [np.arange(start, stop) for run in runs for start, stop in run.key_ranges]
    queries, keys = [run.queries for run in runs], [run.keys for run in runs]
    return VarlenIndex(
        key_rows=torch.from_numpy(np.concatenate(key_rows)).to(device, non_blocking=True),
        query_offsets=_offsets(queries, device),
        key_offsets=_offsets(keys, device),
        max_queries=max(queries),
        max_keys=max(keys),
    )


def by_varlen(
    query: Tensor, key: Tensor, value: Tensor, index: VarlenIndex, options: AttentionOptions
) -> Tensor:
    """Attend with one variable-length call for all runs, where ``varlen_supports`` holds.

    The kernel treats each run as a sequence of its own and aligns the causal mask at its end, so
    that a run's last query sees all of the run's keys.
    """
    from torch.nn.attention.varlen import varlen_attn

    # torch has changed the kernel's parameters between versions; pass those that this one has.
    supported = _varlen_parameters()
    # The kernel takes (tokens, heads, D), and contiguous keys: shared prefixes are copied per run.
    keys = key[0].transpose(0, 1)[index.key_rows]
    values = value[0].transpose(0, 1)[index.key_rows]
    arguments: dict[str, Any] = {"scale": options.scale}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in supported:
            arguments["enable_gqa"] = True
        elif "window_size" not in supported:
            # The oldest versions lack grouped-query attention; those with window_size but without
            # enable_gqa infer it from the shapes.
            groups = query.shape[1] // key.shape[1]
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    if "window_size" in supported:
        # (left, right): -1 is unlimited, and nothing to the right makes it causal.
        arguments["window_size"] = (-1 if options.window is None else options.window - 1, 0)
    else:
        arguments["is_causal"] = True
    out = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        index.query_offsets,
        index.key_offsets,
        index.max_queries,
        index.max_keys,
        **arguments,
    )
    assert isinstance(out, Tensor)
    return out[None]


def varlen_supports(device: torch.device, dtype: torch.dtype, options: AttentionOptions) -> bool:
    """Whether ``by_varlen`` can compute attention with these options."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and options.softcap is None
        and (options.window is None or "window_size" in _varlen_parameters())
        and "scale" in _varlen_parameters()
    )


def block_mask(ends: Tensor, positions: Tensor, window: int | None) -> Any:
    """The FlexAttention block mask of a bin for one sliding window.

    ``ends`` and ``positions`` (T,) are those of a ``Layout``, on the device. (T, T) booleans exist
    while the mask is built.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        on_branch = (column <= row) & (row < ends[column])
        if window is None:
            return on_branch
        # By position, because other branches may lie between two tokens of one sequence.
        return on_branch & (positions[row] - positions[column] < window)

    size = len(ends)
    return create_block_mask(visible, None, None, size, size, device=str(ends.device))


def by_flex(
    query: Tensor, key: Tensor, value: Tensor, blocks: Any, options: AttentionOptions
) -> Tensor:
    """Attend with one FlexAttention call; queries and keys are the T tokens of ``block_mask``."""
    from torch.nn.attention.flex_attention import flex_attention

    def capped(
        score: Tensor, _batch: Tensor, _head: Tensor, _row: Tensor, _column: Tensor
    ) -> Tensor:
        assert options.softcap is not None
        return torch.tanh(score / options.softcap) * options.softcap

    attend: Any = _compiled_flex() if query.device.type == "cuda" else flex_attention
    out = attend(
        query,
        key,
        value,
        score_mod=None if options.softcap is None else capped,
        block_mask=blocks,
        scale=options.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # With a graph break it would silently run unfused and materialise all T x T scores.
    return torch.compile(flex_attention, fullgraph=True)


@cache
def _varlen_parameters() -> frozenset[str]:
    """Names of the kernel's parameters; empty if this torch has no such kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _offsets(sizes: Sequence[int], device: torch.device) -> Tensor:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return torch.from_numpy(offsets).to(device, non_blocking=True)


def count_visible_pairs(layout: Layout) -> int:
    """Number of (query, key) pairs that attention over a bin computes per head and layer."""
    # A run's last query sees all keys, each query before it one fewer.
    return sum(run.queries * run.keys - run.queries * (run.queries - 1) // 2 for run in layout.runs)
