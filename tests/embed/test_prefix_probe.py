"""The probe at start-up lets a model share prefixes only if it gives its own states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed import attention
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.prefix_probe import choose_pass, probe_sequences
from micro_rm.embed.tree_pass import TreePass, decoder_layers
from micro_rm.embed.trees import common_prefix_length, lay_out
from micro_rm.tests.embed.tiny_models import decoder
from micro_rm.tests.embed.token_sequences import a_forest, relative_error, separately

TOLERANCE = 1e-5
SHARED = "prefixes are shared"
UNPRUNED = "prefixes are shared; its last layer is computed at every token"
ROWS = "prefixes are not shared, every sequence has a row of its own: "
PRUNED = ("Llama", "Qwen2", "Qwen3", "Mistral", "Mixtral", "Gemma2", "Gemma3Text", "GPTNeoX", "OPT")
Load = Callable[..., TorchBackbone]
PROBES = probe_sequences(200, 256)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """``load(family, dtype="float32", **settings)``: a backbone from its files."""

    def make(family: str, dtype: str = "float32", **changes: Any) -> TorchBackbone:
        decoder(family, **changes).save_pretrained(tmp_path)
        config = BackboneConfig(name=family, dtype=dtype, max_length=256)
        return TorchBackbone(tmp_path, config, device="cpu")

    return make


@pytest.mark.parametrize("family", [*PRUNED, "GPT2"])
def test_a_family_with_exchangeable_attention_shares_and_is_left_as_it_was(family: str) -> None:
    """GPT-2's layers build their output otherwise, so that its last one is not pruned."""
    model, sequences = decoder(family), a_forest()
    implementation, expected = model.config._attn_implementation, separately(model, sequences)
    chosen, note, error = choose_pass(model, 256)
    assert note == (SHARED if family in PRUNED else UNPRUNED) and error < TOLERANCE
    assert chosen is not None and chosen.prunes == (family in PRUNED)
    assert relative_error(chosen.states(lay_out(sequences)).numpy(), expected) < TOLERANCE
    chosen.deactivate()
    assert model.config._attn_implementation == implementation
    assert all("forward" not in vars(layer) for layer in decoder_layers(model))
    assert np.array_equal(separately(model, sequences), expected)
    unpruned = TreePass(model, prunes=False)
    unpruned.activate()
    assert relative_error(unpruned.states(lay_out(sequences)).numpy(), expected) < TOLERANCE


@pytest.mark.parametrize("family", ["Bloom", "Falcon", "Mamba", "GPTNeo"])
def test_a_family_with_attention_of_its_own_goes_on_in_rows_as_it_was(
    family: str, load: Load
) -> None:
    own = decoder(family)
    implementation, expected = own.config._attn_implementation, separately(own, PROBES)
    choose_pass(own, 256)
    assert own.config._attn_implementation == implementation
    assert np.array_equal(separately(own, PROBES), expected)
    model = load(family)
    reason = f"{family}Model has layers without exchangeable attention"
    assert (model.causal, model.sharing, model.note) == (True, False, ROWS + reason)
    assert relative_error(model.vectors(PROBES), expected) < TOLERANCE
    assert relative_error(model.reference_vector(PROBES[2]), expected[2]) < TOLERANCE


def test_a_mixture_of_experts_counts_as_causal_and_shares(load: Load) -> None:
    model = load("Mixtral")
    assert (model.causal, model.pooling, model.sharing) == (True, "last", True)
    expected = separately(decoder("Mixtral"), PROBES)
    assert relative_error(model.vectors(PROBES), expected) < TOLERANCE


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT2"])
def test_the_probe_allows_for_the_rounding_of_bfloat16(family: str, load: Load) -> None:
    model = load(family, dtype="bfloat16", initializer_range=0.05)
    assert model.sharing, model.note
    alone = np.array([model.reference_vector(ids) for ids in PROBES]).astype(np.float32)
    assert relative_error(model.vectors(PROBES).astype(np.float32), alone) < 3e-2


def test_wrong_states_are_found_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a kernel forgot the prefix: every run sees its own tokens only."""
    expected = separately(decoder("Llama"), PROBES)
    right = attention.by_run

    def forgetful(query: Any, key: Any, value: Any, runs: Any, how: Any, masks: Any) -> Any:
        own = [attention.QueryRun(run.start, run.stop, run.key_ranges[-1:]) for run in runs]
        return right(query, key, value, own, how, masks)

    monkeypatch.setattr(attention, "by_run", forgetful)
    model = load("Llama")
    assert not model.sharing
    assert model.note.startswith(ROWS + "LlamaModel gives other states when it shares (relative")
    assert relative_error(model.vectors(PROBES), expected) < TOLERANCE


def test_states_that_are_not_a_number_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.by_run
    monkeypatch.setattr(attention, "by_run", lambda *rest: right(*rest) * float("nan"))
    choice = choose_pass(decoder("Llama"), 256)
    assert choice.tree_pass is None
    assert "gives other states when it shares (relative error nan" in choice.note


def test_a_kernel_that_raises_is_no_stop(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = separately(decoder("Llama"), PROBES)

    def raising(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(attention, "by_run", raising)
    model = load("Llama")
    assert model.note == ROWS + "LlamaModel failed with RuntimeError: no such kernel"
    assert relative_error(model.vectors(PROBES), expected) < TOLERANCE


@pytest.mark.long
def test_a_model_that_cannot_be_pruned_is_still_compiled() -> None:
    expected = separately(decoder("GPT2"), PROBES)
    choice = choose_pass(decoder("GPT2"), 256, fixed_tokens=256, compiler="eager")
    assert choice.note == UNPRUNED
    assert choice.tree_pass is not None and choice.tree_pass.compiler == "eager"
    actual = choice.tree_pass.states(lay_out(PROBES))
    assert relative_error(actual.numpy(), expected) < TOLERANCE


def test_a_compiler_that_fails_leaves_the_pruned_pass() -> None:
    expected = separately(decoder("Llama"), PROBES)
    choice = choose_pass(decoder("Llama"), 256, fixed_tokens=256, compiler="no_such_compiler")
    assert choice.note.startswith(SHARED + "; its layers are not compiled: LlamaModel failed with")
    assert choice.tree_pass is not None
    assert choice.tree_pass.prunes
    actual = choice.tree_pass.states(lay_out(PROBES)).numpy()
    assert relative_error(actual, expected) < TOLERANCE


def hide_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = TreePass._attend

    def without(self: TreePass, *arguments: Any, **options: Any) -> Any:
        return attend(self, *arguments, **options | {"sliding_window": None})

    monkeypatch.setattr(TreePass, "_attend", without)


@pytest.mark.parametrize("window", [9, 120])
def test_a_window_that_is_not_handed_over_is_found_out(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that is longer than the probe, whose states would be right without it."""
    hide_the_window(monkeypatch)
    choice = choose_pass(decoder("Mistral", sliding_window=window), 256)
    assert choice.tree_pass is None
    reason = "does not hand its sliding window" if window == 120 else "gives other states"
    assert reason in choice.note


@pytest.mark.parametrize(
    ("family", "settings", "max_length"),
    [
        ("Mistral", {"sliding_window": 120}, 120),  # no sequence is longer
        ("Mistral", {"sliding_window": None}, 256),
        ("Gemma2", {"sliding_window": 120, "layer_types": ["full_attention"] * 3}, 256),
    ],
)
def test_a_window_that_no_layer_needs_is_not_missed(
    family: str,
    settings: dict[str, Any],
    max_length: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide_the_window(monkeypatch)
    assert choose_pass(decoder(family, **settings), max_length).note == SHARED


@pytest.mark.parametrize("max_length", [2, 80, 4096])
def test_the_probe_has_forks_and_fits_into_the_longest_sequence(max_length: int) -> None:
    probes = probe_sequences(200, max_length)
    assert all(0 < len(ids) <= max(max_length, 6) for ids in probes)
    assert len({ids.tobytes() for ids in probes}) == len(probes)
    one, other, *responses, alone = probes
    assert 0 < common_prefix_length(one, other) < len(other)
    assert [common_prefix_length(one, ids) for ids in responses[:2]] == [len(one)] * 2
    assert common_prefix_length(other, responses[2]) == len(other)
    assert len(lay_out(probes).token_ids) < sum(len(ids) for ids in probes)
    assert alone.dtype == np.int32


@pytest.mark.parametrize("positions", [16, 64])
def test_the_probe_does_not_go_beyond_a_table_of_positions(positions: int) -> None:
    model = decoder("GPT2", max_position_embeddings=positions)
    assert choose_pass(model, positions).note == UNPRUNED
