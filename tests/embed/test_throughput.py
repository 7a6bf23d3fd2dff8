"""Useful work is counted by hand for a small model; how long it takes decides nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from micro_rm.embed import throughput
from micro_rm.embed.throughput import (
    Throughput,
    Work,
    compute_throughput,
    matrix_peak,
    useful_flops,
)
from micro_rm.embed.trees import lay_out

Decoder = Callable[..., Any]
HIDDEN, MLP, LAYERS = 32, 48, 3


def arrays(*sequences: tuple[int, ...]) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in sequences]


def test_the_operations_of_a_llama_are_those_counted_by_hand(decoder: Decoder) -> None:
    """Grouped heads: keys and values are half as wide. Embeddings and norms do not multiply."""
    layer = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * (HIDDEN // 2) + 3 * HIDDEN * MLP
    result = useful_flops(decoder("Llama"), Work(tokens=100, attended=1000))
    assert result == 2 * LAYERS * layer * 100 + 4 * HIDDEN * LAYERS * 1000


def test_heads_of_their_own_size_count_with_it(decoder: Decoder) -> None:
    """Qwen3 has four heads of 12, wider together than the model."""
    result = useful_flops(decoder("Qwen3"), Work(tokens=0, attended=10))
    assert result == 4 * 4 * 12 * LAYERS * 10


def test_a_table_of_positions_does_not_count(decoder: Decoder) -> None:
    small, large = (
        useful_flops(decoder("OPT", max_position_embeddings=size), Work(tokens=10))
        for size in (64, 256)
    )
    assert small == large


@pytest.mark.parametrize("family", ["GPT2", "Falcon", "Bert"])
def test_other_families_have_a_count(family: str, decoder: Decoder) -> None:
    result = useful_flops(decoder(family), Work(tokens=10, attended=10))
    assert result is not None
    assert result > 2 * 10 * 10_000


@pytest.mark.parametrize("family", ["Mixtral", "Mamba"])
def test_a_mixture_of_experts_or_a_model_without_attention_has_no_count(
    family: str, decoder: Decoder
) -> None:
    assert useful_flops(decoder(family), Work(tokens=10, attended=10)) is None


def test_work_counts_a_shared_prefix_once() -> None:
    work = Work()
    work.add_tree(lay_out(arrays((1, 2, 3, 4), (1, 2, 3, 5, 6), (7,))))
    # Four tokens in a row, two behind the first three of them, one alone.
    assert work == Work(tokens=7, attended=1 + 2 + 3 + 4 + 4 + 5 + 1)


def test_a_tree_of_one_sequence_is_a_causal_row() -> None:
    tree, row = Work(), Work()
    tree.add_tree(lay_out(arrays(tuple(range(17)))))
    row.add_row(17, causal=True)
    assert tree == row == Work(tokens=17, attended=17 * 18 // 2)


def test_a_row_that_reads_in_both_directions_attends_to_all_of_itself() -> None:
    work = Work()
    work.add_row(5, causal=False)
    work.add_row(3, causal=False)
    assert work == Work(tokens=8, attended=34)


def test_the_matrix_peak_is_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(throughput.PEAK_SIZE, "cpu", 64)
    assert 0 < matrix_peak(torch.device("cpu"), torch.bfloat16) < float("inf")


def test_rates_are_work_over_time(decoder: Decoder) -> None:
    model, work = decoder("Llama"), Work(tokens=100, attended=1000)
    flops = useful_flops(model, work)
    assert flops is not None
    result = compute_throughput(model, work, 4.0, 1e6)
    assert result == Throughput(25.0, flops / 4, 1e6)
    assert result.utilization == flops / 4e6


def test_nothing_done_in_no_time_is_no_division_by_zero(decoder: Decoder) -> None:
    assert compute_throughput(decoder("Llama"), Work(), 0.0, 1e6) == Throughput(0.0, 0.0, 1e6)


def test_without_a_count_there_is_no_share() -> None:
    assert Throughput(10.0, None, 1e9).utilization is None
    assert Throughput(0.0, 0.0, 0.0).utilization is None  # of workers that found everything done
    assert Throughput(10.0, 2.5e8, 1e9).utilization == 0.25
