"""A vector depends on its own tokens: not on batch, neighbours, order or padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.backbone import TorchBackbone, to_numpy
from micro_rm.embed.packing import pack_rows, pack_trees
from micro_rm.embed.throughput import Work
from micro_rm.tests.embed.tiny_models import decoder
from micro_rm.tests.embed.token_sequences import (
    Ids,
    arrays,
    drawn,
    own_states,
    random_sequences,
    relative_error,
)

FAMILIES = ("llama", "qwen2", "gpt2", "bert")
TOLERANCE = 1e-5
LoadBackbone = Callable[..., TorchBackbone]
POOLED = {
    "last": lambda states: states[-1],
    "mean": lambda states: states.mean(axis=0),
    "cls": lambda states: states[0],
}


@cache
def own_model(directory: Path) -> Any:
    return AutoModel.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("family", "side", "share", "pooling"),
    [
        *((family, "right", True, "auto") for family in FAMILIES),
        *((family, "left", False, "auto") for family in FAMILIES),
        ("gpt2", "right", False, "auto"),
        ("llama", "right", True, "mean"),
        ("gpt2", "left", True, "mean"),
        ("qwen2", "right", True, "cls"),
        ("bert", "right", True, "cls"),
        ("bert", "left", True, "cls"),
    ],
)
def test_a_vector_is_read_from_the_models_own_states_alone_and_among_any_neighbours(
    family: str,
    side: str,
    share: bool,
    pooling: str,
    backbone: LoadBackbone,
    backbone_path: Callable[[str], Path],
) -> None:
    model = backbone(family, side, share, pooling=pooling)
    causal = family != "bert"
    pooling = pooling if pooling != "auto" else "last" if causal else "mean"
    assert (model.causal, model.pooling) == (causal, pooling)
    assert model.sharing == (pooling == "last" and share)
    if not model.sharing:
        reason = ", as asked" if pooling == "last" else ": the read-out needs the whole sequence"
        assert model.note == f"prefixes are not shared{reason}"
    sequences = random_sequences(0)
    own = own_model(backbone_path(family))
    expected = np.array([POOLED[pooling](own_states(own, ids)) for ids in sequences])
    alone = np.array([model.reference_vector(ids) for ids in sequences])
    assert relative_error(alone, expected) < TOLERANCE
    assert relative_error(model.vectors(sequences), expected) < TOLERANCE
    assert relative_error(model.vectors(sequences[::-1])[::-1], expected) < TOLERANCE
    longest = max(sequences, key=len)
    for ids, vector in zip(sequences, expected, strict=True):
        if ids is not longest:
            assert relative_error(model.vectors([ids, longest])[0], vector) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "side", "share"),
    [
        ("llama", "right", True),
        ("gpt2", "right", True),
        ("qwen2", "right", False),
        ("gpt2", "left", False),
        ("bert", "right", False),
        ("bert", "left", False),
    ],
)
@settings(max_examples=12, deadline=None)
# Id 0 included: padding repeats it, so a real one must not be taken for padding.
@given(sequences=drawn([0, 1, 200], longest=40, most=12), size=st.integers(1, 300))
def test_a_vector_is_the_same_in_every_packing(
    family: str, side: str, share: bool, backbone: LoadBackbone, sequences: list[Ids], size: int
) -> None:
    """For random sequences, bin compositions and sizes."""
    model, ids = backbone(family, side, share), arrays(sequences)
    actual: dict[int, np.ndarray] = {}
    for packed in model.pack(ids, size):
        vectors = model.vectors([ids[index] for index in packed.members])
        actual.update(zip(packed.members, vectors, strict=True))
    assert actual.keys() == set(range(len(ids)))
    for index, one in enumerate(ids):
        assert relative_error(actual[index], model.reference_vector(one)) < TOLERANCE


def test_a_vector_alone_does_not_take_the_shared_pass(backbone: LoadBackbone) -> None:
    """It is the check on that pass, so it must not depend on it; afterwards sharing goes on."""
    model, sequences = backbone("llama"), random_sequences(8, 3)
    before = model.vectors(sequences)
    calls = model._tree_pass.calls
    model.reference_vector(sequences[0])
    assert model._tree_pass.calls == calls
    assert np.array_equal(model.vectors(sequences), before)
    assert model._tree_pass.calls > calls


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_submitted_passes_can_be_collected_in_any_order(
    family: str, backbone: LoadBackbone
) -> None:
    model = backbone(family)
    parts = [random_sequences(seed, 3) for seed in (10, 11, 12)]
    expected = [model.vectors(part) for part in parts]
    waiting = [model.submit(part) for part in parts]
    for index in (2, 0, 1):
        assert np.array_equal(waiting[index](), expected[index])


@pytest.mark.parametrize(("family", "share"), [("llama", True), ("llama", False), ("bert", True)])
def test_a_model_is_packed_for_the_way_that_it_computes(
    family: str, share: bool, backbone: LoadBackbone
) -> None:
    model, sequences = backbone(family, share=share), random_sequences(3)
    if model.sharing:
        expected = pack_trees(sequences, 150)
    else:
        expected = pack_rows(sequences, 150, causal=family == "llama")
    assert model.sharing == (family == "llama" and share)
    assert model.pack(sequences, 150) == expected


@pytest.mark.parametrize(
    ("family", "bin_tokens", "size"),
    [("llama", None, 1536), ("llama", 77, 77), ("bert", None, 2048)],
)
def test_the_size_of_a_pass_is_the_one_asked_for_or_fits_trees_or_rows(
    family: str,
    bin_tokens: int | None,
    size: int,
    backbone_path: Callable[[str], Path],
    settings: Callable[..., Any],
) -> None:
    model = TorchBackbone(
        backbone_path(family), settings(family), device="cpu", bin_tokens=bin_tokens
    )
    assert model.bin_tokens == size


@pytest.mark.parametrize(
    ("family", "share", "work"),
    [
        # Behind three shared tokens two and one: six tokens, which see 1 + ... + 5 and 4.
        ("llama", True, Work(6, 19)),
        # The prefix is read from the first row.
        ("llama", False, Work(9, 25)),
        ("bert", True, Work(12, 25 + 16 + 9)),
    ],
)
def test_work_counts_what_was_computed(
    family: str,
    share: bool,
    work: Work,
    settings: Callable[..., BackboneConfig],
    backbone_path: Callable[[str], Path],
) -> None:
    model = TorchBackbone(backbone_path(family), settings(family), device="cpu", share=share)
    assert model.work == Work()
    model.vectors(arrays([(1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 9)]))
    assert model.work == work


@pytest.mark.parametrize(
    ("family", "side"), [("gpt2", "right"), ("llama", "left"), ("bert", "right"), ("bert", "left")]
)
def test_the_state_of_padding_is_never_read(
    family: str,
    side: str,
    settings: Callable[..., BackboneConfig],
    backbone_path: Callable[[str], Path],
) -> None:
    model = TorchBackbone(
        backbone_path(family), settings(family), device="cpu", padding_side=side, share=False
    )
    random = np.random.default_rng(3)
    sequences = [random.integers(1, 200, size).astype(np.int32) for size in (3, 30, 9, 17)]
    before = model.vectors(sequences)
    with torch.no_grad():
        model.model.get_input_embeddings().weight[0] = 100.0
    assert np.array_equal(model.vectors(sequences), before)


def test_vectors_come_in_the_type_and_width_of_the_backbone(backbone: LoadBackbone) -> None:
    items = arrays([(5, 6, 7), (5, 6)])
    full, half = backbone("llama"), backbone("llama", dtype="bfloat16")
    assert full.sharing and half.sharing
    assert full.vectors(items).shape == half.vectors(items).shape == (2, full.width)
    assert full.vectors(items).dtype == full.reference_vector(items[0]).dtype == np.float32
    assert half.vectors(items).dtype == half.reference_vector(items[0]).dtype == ml_dtypes.bfloat16
    assert relative_error(half.vectors(items), full.vectors(items)) < 3e-2


def test_bfloat16_reaches_numpy_bit_by_bit() -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    actual = to_numpy(values)
    assert actual.dtype == ml_dtypes.bfloat16
    assert np.array_equal(actual.view(np.int16), np.arange(-(2**15), 2**15, dtype=np.int16))


def test_soft_capped_scores_are_capped_whatever_attention_is_the_default(tmp_path: Path) -> None:
    """SDPA knows no capping, and transformers 5.17 takes it for Gemma 2 without a word."""
    decoder("Gemma2").save_pretrained(tmp_path)
    config = BackboneConfig(name="x", dtype="float32", max_length=256)
    made = TorchBackbone(tmp_path, config, device="cpu")
    ids = random_sequences(0)[2]
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    expected = own_states(model, ids)[-1]
    assert made.sharing
    assert relative_error(made.reference_vector(ids), expected) < TOLERANCE
    assert relative_error(made.vectors([ids])[0], expected) < TOLERANCE
