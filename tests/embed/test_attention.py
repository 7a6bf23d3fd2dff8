"""Every way to compute a bin's attention gives what a dense mask over the whole bin gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention import varlen

from micro_rm.embed import attention
from micro_rm.embed.attention import (
    AttentionOptions,
    MaskCache,
    block_mask,
    by_flex,
    by_run,
    by_varlen,
    count_visible_pairs,
    varlen_index,
)
from micro_rm.embed.trees import Layout, lay_out, pad_layout
from micro_rm.tests.embed.token_sequences import Ids, arrays, drawn

CPU = torch.device("cpu")
HEADS, SIZE = 4, 8
PLAIN = AttentionOptions(None, None, None)
SLIDING = AttentionOptions(None, 6, None)
CAPPED = AttentionOptions(None, None, 1.5)
# Windows of the query alone, shorter than a branch, longer than all; heads of keys and values.
WITHOUT_CAP = [
    (PLAIN, 4),
    (AttentionOptions(0.7, None, None), 2),
    (AttentionOptions(None, 1, None), 1),
    (AttentionOptions(0.7, 6, None), 2),
    (AttentionOptions(0.7, 100, None), 4),
]
CASES = [*WITHOUT_CAP, (CAPPED, 1), (AttentionOptions(0.7, 6, 1.5), 2)]
SEQUENCES = drawn([0, 1, 2], longest=7, most=12)
Kernel = Callable[..., Tensor]


def a_layout() -> Layout:
    """Branches within branches, a prefix that is read out, a single token, a long run."""
    random = np.random.default_rng(1)
    parts = [random.integers(0, 50, size).astype(np.int32) for size in (9, 7, 5, 12, 3, 20, 1)]
    trunk, fork, *leaves, apart, single = parts
    return lay_out(
        [
            trunk,
            np.concatenate([trunk, fork]),
            *(np.concatenate([trunk, fork, leaf]) for leaf in leaves),
            np.concatenate([trunk, leaves[0]]),
            apart,
            single,
        ]
    )


def a_bin(layout: Layout, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries (1, H, T, D), keys and values (1, G, T, D) for the tokens of a layout."""
    torch.manual_seed(0)
    size = len(layout.token_ids)
    return (
        3 * torch.randn(1, HEADS, size, SIZE),
        torch.randn(1, groups, size, SIZE),
        torch.randn(1, groups, size, SIZE),
    )


def dense(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: AttentionOptions
) -> Tensor:
    """(1, T, H, D) in double precision, with one mask over all tokens."""
    query, key, value = (tensor.double() for tensor in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    row, column = np.indices((len(layout.ends), len(layout.ends)))
    sees = (column <= row) & (row < layout.ends[column])
    if options.window is not None:
        sees &= layout.positions[row] - layout.positions[column] < options.window
    scores = query @ key.transpose(2, 3) * (SIZE**-0.5 if options.scale is None else options.scale)
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores.masked_fill(~torch.from_numpy(sees), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("options", "groups"), CASES)
def test_one_call_per_run_equals_a_dense_mask(options: AttentionOptions, groups: int) -> None:
    """For all tokens, and for the read-outs alone."""
    layout = a_layout()
    query, key, value = a_bin(layout, groups)
    expected = dense(query, key, value, layout, options)
    assert_equal(by_run(query, key, value, layout.runs, options, MaskCache()), expected)
    read = layout.readouts
    actual = by_run(query[:, :, read], key, value, layout.branches, options, MaskCache())
    assert_equal(actual, expected[:, read])


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.sampled_from(CASES), st.integers(0, 40))
def test_any_tree_filled_or_not_equals_a_dense_mask(
    sequences: list[Ids], case: tuple[AttentionOptions, int], size: int
) -> None:
    options, groups = case
    layout = lay_out(arrays(sequences))
    used = len(layout.token_ids)
    layout = pad_layout(layout, size)
    tensors = a_bin(layout, groups)
    actual = by_run(*tensors, layout.runs, options, MaskCache())
    assert_equal(actual[:, :used], dense(*tensors, layout, options)[:, :used])


@pytest.mark.parametrize(("options", "groups"), CASES)
def test_flex_attention_equals_a_dense_mask(
    options: AttentionOptions, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its debugging mode: without it even the plain call compiles a wrapper.
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    layout = a_layout()
    tensors = a_bin(layout, groups)
    ends, positions = torch.from_numpy(layout.ends), torch.from_numpy(layout.positions)
    blocks = block_mask(ends, positions, options.window)
    assert_equal(by_flex(*tensors, blocks, options), dense(*tensors, layout, options))


@settings(max_examples=100, deadline=None)
@given(SEQUENCES)
def test_gathered_rows_are_the_keys_of_each_run(sequences: list[Ids]) -> None:
    layout = lay_out(arrays(sequences))
    for runs in (layout.runs, layout.branches):
        index = varlen_index(runs, CPU)
        keys, queries = index.key_offsets.tolist(), index.query_offsets.tolist()
        assert list(pairwise(queries)) == [(run.start, run.stop) for run in runs]
        for run, (first, last) in zip(runs, pairwise(keys), strict=True):
            rows = index.key_rows[first:last].tolist()
            assert rows == [row for start, stop in run.key_ranges for row in range(start, stop)]
        assert index.max_keys == max(run.keys for run in runs)
        assert index.max_queries == max(run.queries for run in runs)
        assert index.key_offsets.dtype == index.query_offsets.dtype == torch.int32


def varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch 2.13 documents: windows are aligned at the end of queries and keys."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert query.is_contiguous()
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    out = torch.empty_like(query)
    query_ranges, key_ranges = pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist())
    for (first, last), (start, stop) in zip(query_ranges, key_ranges, strict=True):
        left, right = window_size
        row = torch.arange(last - first)[:, None] + (stop - start) - (last - first)
        column = torch.arange(stop - start)[None]
        sees = torch.ones(len(row), column.shape[1], dtype=torch.bool)
        if left >= 0:
            sees &= column >= row - left
        if right >= 0:
            sees &= column <= row + right
        scores = torch.einsum("qhd,khd->hqk", query[first:last], key[start:stop])
        scores = scores * (SIZE**-0.5 if scale is None else scale)
        weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", weights, value[start:stop])
    return out


def older_varlen(*tensors: Any, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """Without windows and grouped heads, as before."""
    return varlen_reference(*tensors, scale=scale, window_size=(-1, 0 if is_causal else -1))


def ancient_varlen(*tensors: Any, is_causal: bool = False) -> Tensor:
    """Without a scale."""
    raise AssertionError("not to be called")


@pytest.fixture
def use_varlen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Kernel], None]]:
    """``use_varlen(function)``: that function in place of torch's variable-length attention."""

    def use(function: Kernel) -> None:
        monkeypatch.setattr(varlen, "varlen_attn", function)
        attention._varlen_parameters.cache_clear()

    yield use
    attention._varlen_parameters.cache_clear()


@pytest.mark.parametrize(
    ("kernel", "options", "groups"),
    [
        *((varlen_reference, *case) for case in WITHOUT_CAP),
        # Gets repeated heads and a causal flag.
        (older_varlen, PLAIN, 4),
        (older_varlen, AttentionOptions(0.7, None, None), 2),
    ],
)
def test_one_call_for_all_runs_equals_a_dense_mask(
    kernel: Kernel, options: AttentionOptions, groups: int, use_varlen: Callable[[Kernel], None]
) -> None:
    use_varlen(kernel)
    layout = a_layout()
    query, key, value = a_bin(layout, groups)
    expected = dense(query, key, value, layout, options)
    assert_equal(by_varlen(query, key, value, varlen_index(layout.runs, CPU), options), expected)
    read = layout.readouts
    index = varlen_index(layout.branches, CPU)
    assert_equal(by_varlen(query[:, :, read], key, value, index, options), expected[:, read])


@pytest.mark.parametrize(
    ("device", "dtype", "options", "kernel", "serves"),
    [
        ("cuda", torch.bfloat16, PLAIN, varlen_reference, True),
        ("cuda", torch.float16, SLIDING, varlen_reference, True),
        ("cuda", torch.float32, PLAIN, varlen_reference, False),
        ("cpu", torch.bfloat16, PLAIN, varlen_reference, False),
        ("cuda", torch.bfloat16, CAPPED, varlen_reference, False),
        ("cuda", torch.bfloat16, PLAIN, older_varlen, True),
        ("cuda", torch.bfloat16, SLIDING, older_varlen, False),
        ("cuda", torch.bfloat16, PLAIN, ancient_varlen, False),
    ],
)
def test_the_kernel_is_used_for_what_it_can_compute(
    device: str,
    dtype: torch.dtype,
    options: AttentionOptions,
    kernel: Kernel,
    serves: bool,
    use_varlen: Callable[[Kernel], None],
) -> None:
    use_varlen(kernel)
    assert attention.varlen_supports(torch.device(device), dtype, options) is serves


def test_the_kernel_of_the_installed_torch_is_known() -> None:
    """If its signature changes, this says so before a GPU does."""
    attention._varlen_parameters.cache_clear()
    assert attention.varlen_supports(torch.device("cuda"), torch.bfloat16, PLAIN)


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.integers(0, 40))
def test_visible_keys_are_those_of_the_dense_mask(sequences: list[Ids], size: int) -> None:
    layout = pad_layout(lay_out(arrays(sequences)), size)
    row, column = np.indices((len(layout.ends), len(layout.ends)))
    assert count_visible_pairs(layout) == int(((column <= row) & (row < layout.ends[column])).sum())
