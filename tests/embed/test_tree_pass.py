"""A pass over trees: pruned, filled, compiled, and the model afterwards as it was before."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from micro_rm.embed import attention
from micro_rm.embed.tree_pass import TreePass, decoder_layers
from micro_rm.embed.trees import QueryRun, lay_out
from micro_rm.tests.embed.tiny_models import decoder
from micro_rm.tests.embed.token_sequences import (
    Ids,
    a_forest,
    arrays,
    drawn,
    relative_error,
    separately,
)

TOLERANCE = 1e-5
SHOWS = 1e-3


def shared(model: Any, sequences: Sequence[np.ndarray], **options: Any) -> np.ndarray:
    """Last states (n, D) of one shared pass; the model is left as it was."""
    tree_pass = TreePass(model, **{"prunes": type(model).__name__ != "GPT2Model"} | options)
    tree_pass.activate()
    try:
        return tree_pass.states(lay_out(sequences)).numpy()
    finally:
        tree_pass.deactivate()


def without_nearest_ancestor(runs: tuple[QueryRun, ...]) -> tuple[QueryRun, ...]:
    return tuple(replace(run, key_ranges=run.key_ranges[:-2] + run.key_ranges[-1:]) for run in runs)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
@pytest.mark.parametrize("damage", ["positions", "ancestors"])
def test_a_wrong_layout_would_show(family: str, damage: str) -> None:
    """Otherwise the small errors of other tests would say nothing."""
    model, sequences = decoder(family), a_forest()
    layout = lay_out(sequences)
    if damage == "positions":  # counted on, not begun again on each branch
        wrong = replace(layout, positions=np.arange(len(layout.positions)))
    else:
        runs, branches = map(without_nearest_ancestor, (layout.runs, layout.branches))
        wrong = replace(layout, runs=runs, branches=branches)
    expected = separately(model, sequences)
    tree_pass = TreePass(model, prunes=family != "GPT2")
    tree_pass.activate()
    assert relative_error(tree_pass.states(wrong).numpy(), expected) > SHOWS


@settings(max_examples=25, deadline=None)
@given(sequences=drawn([0, 1, 2], longest=14, most=15))
def test_any_tree_equals_separate_passes(sequences: list[Ids]) -> None:
    model, ids = decoder("Llama"), arrays(sequences)
    assert relative_error(shared(model, ids), separately(model, ids)) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "compiler"),
    [
        ("Gemma2", None),
        pytest.param("Llama", "eager", marks=pytest.mark.long),
    ],
)
def test_a_bin_filled_to_a_fixed_size_gives_the_same_states_and_leaves_the_model(
    family: str, compiler: str | None
) -> None:
    model, sequences = decoder(family), a_forest()
    before = separately(model, sequences)
    actual = shared(model, sequences, fixed_tokens=256, compiler=compiler)
    assert relative_error(actual, before) < TOLERANCE
    assert all(layer._compiled_call_impl is None for layer in decoder_layers(model))
    assert np.array_equal(separately(model, sequences), before)


def test_compiled_layers_meet_one_shape_and_compile_once() -> None:
    model, sequences = decoder("Llama"), a_forest()
    expected = separately(model, sequences)
    compiled: list[object] = []

    def backend(graph: Any, _inputs: list[Any]) -> Any:
        compiled.append(graph)
        return graph.forward

    tree_pass = TreePass(model, prunes=True, fixed_tokens=128, compiler=backend)
    tree_pass.activate()
    counts = []
    for part in (slice(0, 3), slice(3, 6), slice(6, 9)):
        actual = tree_pass.states(lay_out(sequences[part])).numpy()
        assert relative_error(actual, expected[part]) < TOLERANCE
        counts.append(len(compiled))
    tree_pass.deactivate()
    assert 0 < counts[0] == counts[-1]


def test_two_models_share_side_by_side() -> None:
    """Each has an attention function of its own in the common registry."""
    sequences = a_forest()
    models = [decoder("Llama"), decoder("Qwen2")]
    expected = [separately(model, sequences) for model in models]
    passes = [TreePass(model, prunes=True) for model in models]
    for tree_pass in passes:
        tree_pass.activate()
    for tree_pass, states in zip(passes, expected, strict=True):
        actual = tree_pass.states(lay_out(sequences)).numpy()
        assert relative_error(actual, states) < TOLERANCE


def test_a_model_that_nobody_needs_is_freed() -> None:
    """The registry of attention functions lives on: it must not hold the model's memory."""
    model = decoder("Llama")
    shared(model, a_forest())
    last = weakref.ref(model)
    del model
    gc.collect()
    assert last() is None


def test_the_pruned_layer_computes_its_mlp_at_the_read_outs_only() -> None:
    model, sequences = decoder("Llama"), a_forest()
    rows: list[int] = []
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda _module, _inputs, out: rows.append(out.shape[1]))
    shared(model, sequences)
    tokens = len(lay_out(sequences).token_ids)
    assert rows == [tokens, tokens, len(sequences)]


def test_no_list_or_a_second_list_of_as_many_layers_is_refused() -> None:
    model = decoder("Llama")
    model.adapters = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    with pytest.raises(ValueError, match="found 2 lists of 3 layers"):
        decoder_layers(model)
    model.config.num_hidden_layers = 5
    with pytest.raises(ValueError, match="found 0 lists of 5 layers in LlamaModel"):
        TreePass(model, prunes=True).activate()


def test_the_state_of_a_failed_pass_is_forgotten() -> None:
    tree_pass = TreePass(decoder("Llama"), prunes=True)
    tree_pass.activate()
    good, bad = lay_out(a_forest()), lay_out(arrays([(5, 10**6)]))
    before = tree_pass.states(good).numpy()
    with pytest.raises(IndexError):
        tree_pass.states(bad)
    assert tree_pass._state is None
    assert np.array_equal(tree_pass.states(good).numpy(), before)


def test_all_layers_of_a_bin_share_one_varlen_index(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = decoder("Llama"), a_forest()
    layout, expected = lay_out(sequences), separately(model, sequences)
    asked: list[str] = []

    def varlen_index(runs: Any, _device: Any) -> Any:
        asked.append({id(layout.runs): "runs", id(layout.branches): "branches"}[id(runs)])
        return runs

    def by_varlen(query: Any, key: Any, value: Any, runs: Any, options: Any) -> Any:
        asked.append("attention")
        return attention.by_run(query, key, value, runs, options, attention.MaskCache())

    monkeypatch.setattr(attention, "varlen_supports", lambda *_: True)
    monkeypatch.setattr(attention, "varlen_index", varlen_index)
    monkeypatch.setattr(attention, "by_varlen", by_varlen)
    tree_pass = TreePass(model, prunes=True)
    tree_pass.activate()
    assert relative_error(tree_pass.states(layout).numpy(), expected) < TOLERANCE
    assert asked == ["runs", "attention", "attention", "branches", "attention"]
