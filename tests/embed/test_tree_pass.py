"""A shared pass gives every sequence the state that a pass of its own gives, in each family."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.packing import pack_trees
from micro_rm.embed.tree_pass import TreePass, decoder_layers
from micro_rm.embed.trees import QueryRun, lay_out

# Families whose last layer can be pruned, and one whose layers build their output otherwise.
PRUNED = (
    "Llama",
    "Qwen2",
    "Qwen3",
    "Mistral",
    "Mixtral",
    "Gemma2",
    "Gemma3Text",
    "GPTNeoX",
    "OPT",
)
FAMILIES = (*PRUNED, "GPT2")
TOLERANCE = 1e-5
SHOWS = 1e-3
Decoder = Callable[..., Any]
RelativeError = Callable[[np.ndarray, np.ndarray], float]
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=14).map(tuple),
    min_size=1,
    max_size=15,
    unique=True,
)


def a_forest() -> list[np.ndarray]:
    """Two prompts behind one header with their responses, one sequence apart, a single token."""
    random = np.random.default_rng(4)
    header, one, two, apart = (
        random.integers(0, 200, size).astype(np.int32) for size in (6, 15, 11, 19)
    )
    prompts = [np.concatenate([header, prompt]) for prompt in (one, two)]
    replies = [random.integers(0, 200, size).astype(np.int32) for size in (14, 2, 8, 21, 1)]
    first = [np.concatenate([prompts[0], reply]) for reply in replies]
    second = [np.concatenate([prompts[1], reply]) for reply in replies[:2]]
    further = np.concatenate([first[0], replies[2]])
    return [*second, header, apart, *prompts, *first, further, apart[:1]]


@torch.inference_mode()
def separately(model: Any, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Last states (n, D) of n passes of one sequence each."""
    rows = [torch.from_numpy(ids.astype(np.int64))[None] for ids in sequences]
    return np.array([model(input_ids=ids).last_hidden_state[0, -1].numpy() for ids in rows])


def shared(model: Any, sequences: Sequence[np.ndarray], **options: Any) -> np.ndarray:
    """Last states (n, D) of one shared pass; the model is left as it was."""
    options = {"prunes": type(model).__name__ != "GPT2Model"} | options
    tree_pass = TreePass(model, **options)
    tree_pass.activate()
    try:
        return tree_pass.states(lay_out(sequences)).numpy()
    finally:
        tree_pass.deactivate()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_pass_equals_separate_passes(
    family: str, decoder: Decoder, relative_error: RelativeError
) -> None:
    model, sequences = decoder(family), a_forest()
    expected = separately(model, sequences)
    assert relative_error(shared(model, sequences), expected) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unpruned_pass_equals_separate_passes(
    family: str, decoder: Decoder, relative_error: RelativeError
) -> None:
    model, sequences = decoder(family), a_forest()
    expected = separately(model, sequences)
    assert relative_error(shared(model, sequences, prunes=False), expected) < TOLERANCE


def without_nearest_ancestor(runs: tuple[QueryRun, ...]) -> tuple[QueryRun, ...]:
    return tuple(replace(run, key_ranges=run.key_ranges[:-2] + run.key_ranges[-1:]) for run in runs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damage", ["positions", "ancestors"])
def test_a_wrong_layout_would_show(
    family: str, damage: str, decoder: Decoder, relative_error: RelativeError
) -> None:
    """Otherwise the small errors of the tests above would say nothing."""
    model, sequences = decoder(family), a_forest()
    layout = lay_out(sequences)
    if damage == "positions":  # counted on, not begun again on each branch
        wrong = replace(layout, positions=np.arange(len(layout.positions)))
    else:
        wrong = replace(
            layout,
            runs=without_nearest_ancestor(layout.runs),
            branches=without_nearest_ancestor(layout.branches),
        )
    expected = separately(model, sequences)
    tree_pass = TreePass(model, prunes=family in PRUNED)
    tree_pass.activate()
    assert relative_error(tree_pass.states(wrong).numpy(), expected) > SHOWS


@settings(max_examples=25, deadline=None)
@given(sequences=SEQUENCES)
def test_any_tree_equals_separate_passes(
    sequences: list[tuple[int, ...]], decoder: Decoder, relative_error: RelativeError
) -> None:
    model = decoder("Llama")
    ids = [np.array(one, np.int32) for one in sequences]
    assert relative_error(shared(model, ids), separately(model, ids)) < TOLERANCE


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT2"])
def test_neither_order_nor_packing_changes_a_state(
    family: str, decoder: Decoder, relative_error: RelativeError
) -> None:
    model, sequences = decoder(family), a_forest()
    together = shared(model, sequences)
    order = np.random.default_rng(0).permutation(len(sequences))
    permuted = shared(model, [sequences[index] for index in order])
    assert relative_error(permuted, together[order]) < TOLERANCE
    bins = pack_trees(sequences, 50)
    assert len(bins) > 2
    for packed in bins:
        members = list(packed.members)
        apart = shared(model, [sequences[index] for index in members])
        assert relative_error(apart, together[members]) < TOLERANCE


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
@pytest.mark.parametrize("compiler", [None, pytest.param("eager", marks=pytest.mark.long)])
def test_a_bin_filled_to_a_fixed_size_gives_the_same_states(
    family: str, compiler: str | None, decoder: Decoder, relative_error: RelativeError
) -> None:
    model, sequences = decoder(family), a_forest()
    expected = separately(model, sequences)
    actual = shared(model, sequences, fixed_tokens=256, compiler=compiler)
    assert relative_error(actual, expected) < TOLERANCE
    assert relative_error(separately(model, sequences), expected) < TOLERANCE


def test_compiled_layers_meet_one_shape_and_compile_once(
    decoder: Decoder, relative_error: RelativeError
) -> None:
    model = decoder("Llama")
    compiled: list[object] = []

    def backend(graph: Any, _inputs: list[Any]) -> Any:
        compiled.append(graph)
        return graph.forward

    tree_pass = TreePass(model, prunes=True, fixed_tokens=128, compiler=backend)
    sequences = a_forest()
    expected = separately(model, sequences)
    tree_pass.activate()
    counts, errors = [], []
    for part in (slice(0, 3), slice(3, 6), slice(6, 9)):
        actual = tree_pass.states(lay_out(sequences[part])).numpy()
        errors.append(relative_error(actual, expected[part]))
        counts.append(len(compiled))
    tree_pass.deactivate()
    assert max(errors) < TOLERANCE
    assert counts[0] > 0
    assert counts[0] == counts[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compiler", [None, pytest.param("eager", marks=pytest.mark.long)])
def test_deactivated_a_model_is_what_it_was(
    family: str, compiler: str | None, decoder: Decoder
) -> None:
    model, sequences = decoder(family), a_forest()
    before = separately(model, sequences)
    implementation = model.config._attn_implementation
    shared(model, sequences, compiler=compiler)
    assert model.config._attn_implementation == implementation
    assert all("forward" not in vars(layer) for layer in decoder_layers(model))
    assert all(layer._compiled_call_impl is None for layer in decoder_layers(model))
    assert np.array_equal(separately(model, sequences), before)


def test_a_pass_can_be_activated_again(decoder: Decoder) -> None:
    model, sequences = decoder("Llama"), a_forest()
    tree_pass, layout = TreePass(model, prunes=True), lay_out(sequences)
    actual = []
    for _ in range(2):
        tree_pass.activate()
        actual.append(tree_pass.states(layout).numpy())
        tree_pass.deactivate()
    assert np.array_equal(*actual)


def test_two_models_share_side_by_side(decoder: Decoder, relative_error: RelativeError) -> None:
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


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_model_that_nobody_needs_is_freed(family: str, decoder: Decoder) -> None:
    """The registry of attention functions lives on: it must not hold the model's memory."""
    model = decoder(family)
    shared(model, a_forest())
    last = weakref.ref(model)
    del model
    gc.collect()
    assert last() is None


@pytest.mark.parametrize(("prunes", "calls"), [(True, 4), (False, 3)])
def test_attention_is_asked_for_once_per_layer_and_twice_by_the_pruned_one(
    prunes: bool, calls: int, decoder: Decoder
) -> None:
    tree_pass = TreePass(decoder("Llama"), prunes=prunes)
    tree_pass.activate()
    tree_pass.states(lay_out(a_forest()))
    assert tree_pass.calls == calls


def test_the_pruned_layer_computes_its_mlp_at_the_read_outs_only(decoder: Decoder) -> None:
    model, sequences = decoder("Llama"), a_forest()
    rows: list[int] = []
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda _module, _inputs, out: rows.append(out.shape[1]))
    shared(model, sequences)
    tokens = len(lay_out(sequences).token_ids)
    assert rows == [tokens, tokens, len(sequences)]


@pytest.mark.parametrize(
    ("family", "windows"), [("Llama", set()), ("Mistral", {9}), ("Gemma2", {9})]
)
def test_the_windows_that_a_model_names_are_remembered(
    family: str, windows: set[int], decoder: Decoder
) -> None:
    tree_pass = TreePass(decoder(family), prunes=True)
    tree_pass.activate()
    tree_pass.states(lay_out(a_forest()))
    assert tree_pass.windows == windows


def test_a_family_without_a_list_of_layers_is_refused(decoder: Decoder) -> None:
    model = decoder("Llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(ValueError, match="found 0 lists of 5 layers in LlamaModel"):
        TreePass(model, prunes=True).activate()


def test_a_second_list_of_as_many_layers_is_refused(decoder: Decoder) -> None:
    model = decoder("Llama")
    model.adapters = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    with pytest.raises(ValueError, match="found 2 lists of 3 layers"):
        decoder_layers(model)


def test_the_state_of_a_failed_pass_is_forgotten(decoder: Decoder) -> None:
    model = decoder("Llama")
    tree_pass = TreePass(model, prunes=True)
    tree_pass.activate()
    good, bad = lay_out(a_forest()), lay_out([np.array([5, 10**6], np.int32)])
    before = tree_pass.states(good).numpy()
    with pytest.raises(IndexError):
        tree_pass.states(bad)
    assert tree_pass._state is None
    assert np.array_equal(tree_pass.states(good).numpy(), before)


class Recorded:
    """Stands in for the kernels of ``attention`` and writes down which were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        from micro_rm.embed import attention

        self.asked: list[str] = []
        for name, answer in answers.items():
            monkeypatch.setattr(attention, name, self._recording(name, answer))

    def _recording(self, name: str, answer: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.asked.append(name)
            return answer(*arguments)

        return call


def test_all_layers_of_a_bin_share_one_varlen_index(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, relative_error: RelativeError
) -> None:
    from micro_rm.embed import attention

    model, sequences = decoder("Llama"), a_forest()
    layout, expected = lay_out(sequences), separately(model, sequences)
    names = {id(layout.runs): "runs", id(layout.branches): "branches"}

    def varlen_index(runs: Any, _device: Any) -> Any:
        return SimpleNamespace(runs=runs, name=names[id(runs)])

    def by_varlen(query: Any, key: Any, value: Any, index: Any, options: Any) -> Any:
        return attention.by_run(query, key, value, index.runs, options, attention.MaskCache())

    monkeypatch.setattr(attention, "varlen_supports", lambda *_: True)
    recorded = Recorded(monkeypatch, varlen_index=varlen_index, by_varlen=by_varlen)
    tree_pass = TreePass(model, prunes=True)
    tree_pass.activate()
    assert relative_error(tree_pass.states(layout).numpy(), expected) < TOLERANCE
    assert recorded.asked.count("varlen_index") == 2  # all tokens, and the read-outs
    assert recorded.asked.count("by_varlen") == 3
