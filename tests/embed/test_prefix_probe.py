"""The probe at start-up lets a model share prefixes only if it gives its own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed import attention
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.prefix_probe import choose_pass, probe_sequences
from micro_rm.embed.tree_pass import TreePass
from micro_rm.embed.trees import common_prefix_length, lay_out

TOLERANCE = 1e-5
SHARED = "prefixes are shared"
UNPRUNED = "prefixes are shared; its last layer is computed at every token"
ROWS = "prefixes are not shared, every sequence has a row of its own: "
PRUNED_FAMILIES = (
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
ROW_FAMILIES = ("Bloom", "Falcon", "Mamba", "GPTNeo")
Decoder = Callable[..., Any]
RelativeError = Callable[[np.ndarray, np.ndarray], float]
Load = Callable[..., TorchBackbone]


@pytest.fixture
def load(decoder: Decoder, tmp_path: Path) -> Load:
    """``load(family, dtype="float32", share=True, **settings)``: a backbone from its files."""

    def make(
        family: str, dtype: str = "float32", share: bool = True, **changes: Any
    ) -> TorchBackbone:
        decoder(family, **changes).save_pretrained(tmp_path)
        config = BackboneConfig(name=family, dtype=dtype, max_length=256)
        return TorchBackbone(tmp_path, config, device="cpu", share=share)

    return make


@torch.inference_mode()
def separately(model: Any, sequences: Sequence[np.ndarray]) -> np.ndarray:
    rows = [torch.from_numpy(ids.astype(np.int64))[None] for ids in sequences]
    return np.array([model(input_ids=ids).last_hidden_state[0, -1].numpy() for ids in rows])


def sequences() -> list[np.ndarray]:
    return probe_sequences(200, 256)


@pytest.mark.parametrize("family", PRUNED_FAMILIES)
def test_a_family_with_exchangeable_attention_shares_and_is_pruned(
    family: str, decoder: Decoder
) -> None:
    choice = choose_pass(decoder(family), 256)
    assert choice.note == SHARED
    assert choice.tree_pass is not None
    assert choice.tree_pass.prunes


def test_gpt2_shares_with_its_last_layer_computed_everywhere(decoder: Decoder) -> None:
    choice = choose_pass(decoder("GPT2"), 256)
    assert choice.note == UNPRUNED
    assert choice.tree_pass is not None
    assert not choice.tree_pass.prunes


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_the_chosen_pass_is_left_active(
    family: str, decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder(family), sequences())
    choice = choose_pass(decoder(family), 256)
    assert choice.tree_pass is not None
    actual = choice.tree_pass.states(lay_out(sequences())).numpy()
    assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("family", ROW_FAMILIES)
def test_a_family_with_attention_of_its_own_goes_on_in_rows(
    family: str, load: Load, decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder(family), sequences())
    model = load(family)
    reason = f"{family}Model has layers without exchangeable attention"
    assert (model.causal, model.sharing, model.note) == (True, False, ROWS + reason)
    assert relative_error(model.vectors(sequences()), expected) < TOLERANCE
    assert relative_error(model.reference_vector(sequences()[2]), expected[2]) < TOLERANCE


@pytest.mark.parametrize("family", ROW_FAMILIES)
def test_a_rejected_family_is_left_as_it_was(family: str, decoder: Decoder) -> None:
    model = decoder(family)
    implementation, expected = model.config._attn_implementation, separately(model, sequences())
    choose_pass(model, 256)
    assert model.config._attn_implementation == implementation
    assert np.array_equal(separately(model, sequences()), expected)


def test_a_mixture_of_experts_counts_as_causal_and_shares(
    load: Load, decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder("Mixtral"), sequences())
    model = load("Mixtral")
    assert (model.causal, model.pooling, model.sharing) == (True, "last", True)
    assert relative_error(model.vectors(sequences()), expected) < TOLERANCE


def test_an_encoder_never_shares(load: Load) -> None:
    model = load("Bert")
    assert (model.causal, model.sharing) == (False, False)
    assert model.note == "prefixes are not shared: the read-out needs the whole sequence"


def test_sharing_can_be_declined(
    load: Load, decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder("Llama"), sequences())
    model = load("Llama", share=False)
    assert (model.sharing, model.note) == (False, "prefixes are not shared, as asked")
    assert relative_error(model.vectors(sequences()), expected) < TOLERANCE


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPTNeoX", "GPT2"])
def test_the_probe_allows_for_the_rounding_of_bfloat16(
    family: str, load: Load, relative_error: RelativeError
) -> None:
    model = load(family, dtype="bfloat16", initializer_range=0.05)
    assert model.sharing, model.note
    alone = np.array([model.reference_vector(ids) for ids in sequences()]).astype(np.float32)
    assert relative_error(model.vectors(sequences()).astype(np.float32), alone) < 3e-2


def break_attention(monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Any]) -> None:
    monkeypatch.setattr(attention, "by_run", wrong)


def test_wrong_states_are_found_out(
    load: Load, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, relative_error: RelativeError
) -> None:
    """As if a kernel forgot the prefix: every run sees its own tokens only."""
    expected = separately(decoder("Llama"), sequences())
    right = attention.by_run

    def forgetful(query: Any, key: Any, value: Any, runs: Any, how: Any, masks: Any) -> Any:
        own = [attention.QueryRun(run.start, run.stop, run.key_ranges[-1:]) for run in runs]
        return right(query, key, value, own, how, masks)

    break_attention(monkeypatch, forgetful)
    model = load("Llama")
    assert not model.sharing
    assert model.note.startswith(ROWS + "LlamaModel gives other states when it shares (relative")
    assert relative_error(model.vectors(sequences()), expected) < TOLERANCE


def test_states_that_are_not_a_number_are_found_out(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = attention.by_run
    break_attention(monkeypatch, lambda *arguments: right(*arguments) * float("nan"))
    choice = choose_pass(decoder("Llama"), 256)
    assert choice.tree_pass is None
    assert "gives other states when it shares (relative error nan" in choice.note


def test_a_kernel_that_raises_is_no_stop(
    load: Load, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, relative_error: RelativeError
) -> None:
    expected = separately(decoder("Llama"), sequences())

    def raising(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    break_attention(monkeypatch, raising)
    model = load("Llama")
    assert model.note == ROWS + "LlamaModel failed with RuntimeError: no such kernel"
    assert relative_error(model.vectors(sequences()), expected) < TOLERANCE


@pytest.mark.long
def test_a_model_that_cannot_be_pruned_is_still_compiled(
    decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder("GPT2"), sequences())
    choice = choose_pass(decoder("GPT2"), 256, fixed_tokens=256, compiler="eager")
    assert choice.note == UNPRUNED
    assert choice.tree_pass is not None and choice.tree_pass.compiler == "eager"
    actual = choice.tree_pass.states(lay_out(sequences()))
    assert relative_error(actual.numpy(), expected) < TOLERANCE


def test_a_compiler_that_fails_leaves_the_pruned_pass(
    decoder: Decoder, relative_error: RelativeError
) -> None:
    expected = separately(decoder("Llama"), sequences())
    choice = choose_pass(decoder("Llama"), 256, fixed_tokens=256, compiler="no_such_compiler")
    assert choice.note.startswith(SHARED + "; its layers are not compiled: LlamaModel failed with")
    assert choice.tree_pass is not None
    assert choice.tree_pass.prunes
    actual = choice.tree_pass.states(lay_out(sequences())).numpy()
    assert relative_error(actual, expected) < TOLERANCE


def hide_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = TreePass._attend

    def without(self: TreePass, *arguments: Any, **options: Any) -> Any:
        return attend(self, *arguments, **options | {"sliding_window": None})

    monkeypatch.setattr(TreePass, "_attend", without)


@pytest.mark.parametrize("window", [9, 120])
def test_a_window_that_is_not_handed_over_is_found_out(
    window: int, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
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
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide_the_window(monkeypatch)
    assert choose_pass(decoder(family, **settings), max_length).note == SHARED


@pytest.mark.parametrize("max_length", [2, 8, 80, 4096])
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


@pytest.mark.parametrize("positions", [16, 32, 48, 64, 80])
def test_the_probe_does_not_go_beyond_a_table_of_positions(
    positions: int, decoder: Decoder
) -> None:
    model = decoder("GPT2", max_position_embeddings=positions)
    assert choose_pass(model, positions).note == UNPRUNED
