"""A vector depends on its own tokens: not on batch, neighbours, order or padding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.backbone import (
    TorchBackbone,
    collate,
    pick_device,
    stable_rope_length,
    to_numpy,
)
from micro_rm.embed.packing import pack_rows, pack_trees
from micro_rm.embed.throughput import Work

FAMILIES = ("llama", "qwen2", "gpt2", "bert")
DECODERS = ("llama", "qwen2", "gpt2")
SIDES = ("right", "left")
# Prefixes shared, rows padded on the right, rows padded on the left.
WAYS = (("right", True), ("right", False), ("left", False))
TOLERANCE = 1e-5
LoadBackbone = Callable[..., TorchBackbone]
RelativeError = Callable[[np.ndarray, np.ndarray], float]
# Any ids, id 0 included: padding repeats it, so a real one must not be taken for padding. Few of
# them, so that sequences begin alike.
SEQUENCES = st.lists(
    st.lists(st.sampled_from([0, 1, 200]), min_size=1, max_size=40).map(tuple),
    min_size=1,
    max_size=12,
    unique=True,
)


def array(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def random_sequences(seed: int, number: int = 12) -> list[np.ndarray]:
    """Distinct sequences; every third one goes on where another one ends."""
    random = np.random.default_rng(seed)
    sequences = [
        random.integers(0, 200, size).astype(np.int32) for size in random.integers(2, 60, number)
    ]
    for index in range(2, number, 3):
        sequences[index] = np.concatenate([sequences[index - 1], sequences[index]])
    return sequences


def own_states(directory: Path, ids: Sequence[int]) -> np.ndarray:
    """What transformers itself gives for one sequence without any padding."""
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(torch.tensor([list(ids)], dtype=torch.int64)).last_hidden_state
    return states[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("side", "share"), WAYS)
def test_a_vector_is_the_same_alone_and_among_any_neighbours(
    family: str, side: str, share: bool, backbone: LoadBackbone, relative_error: RelativeError
) -> None:
    model = backbone(family, side, share)
    sequences = random_sequences(0)
    alone = np.array([model.reference_vector(ids) for ids in sequences])
    assert relative_error(model.vectors(sequences), alone) < TOLERANCE
    assert relative_error(model.vectors(sequences[::-1])[::-1], alone) < TOLERANCE
    longest = max(sequences, key=len)
    for ids, expected in zip(sequences, alone, strict=True):
        if ids is not longest:
            actual = model.vectors([ids, longest])[0]
            assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_the_same_shared_and_under_either_padding_side(
    family: str, backbone: LoadBackbone, relative_error: RelativeError
) -> None:
    sequences = random_sequences(1)
    shared, *others = (backbone(family, *way).vectors(sequences) for way in WAYS)
    for vectors in others:
        assert relative_error(vectors, shared) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("side", "share"), WAYS)
@settings(max_examples=12, deadline=None)
@given(sequences=SEQUENCES, size=st.integers(1, 300))
def test_a_vector_is_the_same_in_every_packing(
    family: str,
    side: str,
    share: bool,
    backbone: LoadBackbone,
    relative_error: RelativeError,
    sequences: list[tuple[int, ...]],
    size: int,
) -> None:
    """For random sequences, bin compositions and sizes."""
    model = backbone(family, side, share)
    ids = [np.array(one, np.int32) for one in sequences]
    actual: dict[int, np.ndarray] = {}
    for packed in model.pack(ids, size):
        vectors = model.vectors([ids[index] for index in packed.members])
        actual.update(zip(packed.members, vectors, strict=True))
    assert actual.keys() == set(range(len(ids)))
    for index, one in enumerate(ids):
        assert relative_error(actual[index], model.reference_vector(one)) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        (family, pooling)
        for family, pooling in product(FAMILIES, ("last", "mean", "cls"))
        if (family, pooling) != ("bert", "last")  # refused, see below
    ],
)
@pytest.mark.parametrize(("side", "share"), WAYS)
def test_pooling_reads_what_it_says_from_the_models_own_states(
    family: str,
    pooling: str,
    side: str,
    share: bool,
    backbone: LoadBackbone,
    backbone_path: Callable[[str], Path],
    relative_error: RelativeError,
) -> None:
    sequences = random_sequences(2, 4)
    actual = backbone(family, side, share, pooling=pooling).vectors(sequences)
    for vector, ids in zip(actual, sequences, strict=True):
        states = own_states(backbone_path(family), ids.tolist())
        expected = {"last": states[-1], "mean": states.mean(axis=0), "cls": states[0]}[pooling]
        assert relative_error(vector, expected) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("side", "share"), WAYS)
def test_alone_is_what_transformers_itself_gives(
    family: str,
    side: str,
    share: bool,
    backbone: LoadBackbone,
    backbone_path: Callable[[str], Path],
    relative_error: RelativeError,
) -> None:
    ids = random_sequences(6, 1)[0]
    states = own_states(backbone_path(family), ids.tolist())
    expected = states.mean(axis=0) if family == "bert" else states[-1]
    assert relative_error(backbone(family, side, share).reference_vector(ids), expected) < TOLERANCE


@pytest.mark.parametrize("family", DECODERS)
def test_alone_does_not_take_the_shared_pass(
    family: str, backbone: LoadBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the check on that pass, so it must not depend on it; afterwards sharing goes on."""
    model = backbone(family)
    sequences = random_sequences(8, 3)
    before = model.vectors(sequences)
    calls = model._tree_pass.calls
    model.reference_vector(sequences[0])
    assert model._tree_pass.calls == calls
    assert np.array_equal(model.vectors(sequences), before)
    assert model._tree_pass.calls > calls


@pytest.mark.parametrize("family", FAMILIES)
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
    [("llama", None, 1536), ("llama", 77, 77), ("bert", None, 2048), ("bert", 77, 77)],
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
    model.vectors([array(1, 2, 3), array(1, 2, 3, 4, 5), array(1, 2, 3, 9)])
    assert model.work == work


@pytest.mark.parametrize(
    ("family", "causal", "pooling"),
    [
        ("llama", True, "last"),
        ("qwen2", True, "last"),
        ("gpt2", True, "last"),
        ("bert", False, "mean"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_causality_is_measured_and_decides_automatic_pooling(
    family: str, causal: bool, pooling: str, side: str, backbone: LoadBackbone
) -> None:
    model = backbone(family, side)
    sharing = causal and side == "right"
    assert (model.causal, model.pooling, model.sharing) == (causal, pooling, sharing)


def test_an_encoder_class_with_a_causal_mask_is_found_causal(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        is_decoder=True,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(tmp_path)
    model = TorchBackbone(
        tmp_path, BackboneConfig(name="x", dtype="float32", max_length=64), device="cpu"
    )
    assert model.causal


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_only_last_token_read_outs_share_prefixes(pooling: str, backbone: LoadBackbone) -> None:
    model = backbone("llama", pooling=pooling)
    assert not model.sharing
    assert model.note == "prefixes are not shared: the read-out needs the whole sequence"


def test_the_last_token_of_a_bidirectional_model_is_refused(backbone: LoadBackbone) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.pooling.*use mean or cls"):
        backbone("bert", pooling="last")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("side", "share"), WAYS)
def test_the_state_of_padding_is_never_read(
    family: str,
    side: str,
    share: bool,
    settings: Callable[..., BackboneConfig],
    backbone_path: Callable[[str], Path],
) -> None:
    model = TorchBackbone(
        backbone_path(family), settings(family), device="cpu", padding_side=side, share=share
    )
    random = np.random.default_rng(3)
    sequences = [random.integers(1, 200, size).astype(np.int32) for size in (3, 30, 9, 17)]
    before = model.vectors(sequences)
    with torch.no_grad():
        model.model.get_input_embeddings().weight[0] = 100.0
    assert np.array_equal(model.vectors(sequences), before)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(("side", "share"), WAYS)
def test_prefixes_read_from_a_longer_pass_equal_their_own_passes(
    family: str, side: str, share: bool, backbone: LoadBackbone, relative_error: RelativeError
) -> None:
    """Several read-outs per pass, in the order of the sequences."""
    model = backbone(family, side, share)
    sequences = [
        ids[:stop] for ids in random_sequences(4, 5) for stop in {len(ids), len(ids) // 2 + 1}
    ]
    distinct = list({ids.tobytes(): ids for ids in sequences}.values())
    expected = np.array([model.reference_vector(ids) for ids in distinct])
    assert relative_error(model.vectors(distinct), expected) < TOLERANCE


def test_vectors_come_in_the_type_and_width_of_the_backbone(
    backbone: LoadBackbone, relative_error: RelativeError
) -> None:
    items = [array(5, 6, 7), array(5, 6)]
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


@pytest.mark.parametrize(
    ("side", "ids", "mask", "starts"),
    [
        ("right", [[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [0, 0]),
        ("left", [[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]], [0, 2]),
    ],
)
def test_collate_pads_on_the_side_asked_for(
    side: str, ids: list[list[int]], mask: list[list[int]], starts: list[int]
) -> None:
    padded = collate([np.array([7, 8, 9], np.int32), np.array([5], np.int32)], side)
    assert [array.tolist() for array in padded] == [ids, mask, starts]


def test_the_model_is_frozen_and_in_evaluation_mode(backbone: LoadBackbone) -> None:
    model = backbone("gpt2").model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_a_missing_cuda_device_is_named() -> None:
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"embed\.device: cuda asked for"):
        pick_device("cuda")


@pytest.mark.parametrize("content", ["{}", json.dumps({"model_type": "unheard-of"})])
def test_a_directory_that_holds_no_known_model_is_a_config_error(
    content: str, tmp_path: Path, backbone_path: Callable[[str], Path]
) -> None:
    weights = (backbone_path("llama") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"backbone\.name: .* cannot be loaded"):
        TorchBackbone(tmp_path, BackboneConfig(name=str(tmp_path)), device="cpu")


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "cannot be loaded"),
        ("another width", "cannot be loaded"),
        ("a layer more", "lacks the weights layers.2"),
        ("a tensor less", r"lacks the weights layers\.1\.mlp.*which would be random"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_not_made_up(
    damage: str, words: str, tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """Random weights in place of missing ones would give vectors that no other run gives."""
    weights = save_backbone(tmp_path, "llama") / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "another width":
        edit_config(tmp_path, intermediate_size=64)
    elif damage == "a layer more":
        edit_config(tmp_path, num_hidden_layers=3)
    else:
        tensors = load_file(weights)
        del tensors["layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"backbone\.name: .*{words}"):
        TorchBackbone(tmp_path, BackboneConfig(name=str(tmp_path)), device="cpu")


def test_a_missing_pooler_is_no_loss(tmp_path: Path, save_backbone: Callable[..., Path]) -> None:
    """Sentence encoders come without one; the states before it do not need it."""
    weights = save_backbone(tmp_path, "bert") / "model.safetensors"
    config = BackboneConfig(name="x", dtype="float32", max_length=256)
    before = TorchBackbone(tmp_path, config, device="cpu").vectors([array(5, 6, 7)])
    tensors = {key: value for key, value in load_file(weights).items() if "pooler" not in key}
    save_file(tensors, weights, {"format": "pt"})
    after = TorchBackbone(tmp_path, config, device="cpu").vectors([array(5, 6, 7)])
    assert np.array_equal(before, after)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_max_length_beyond_the_learned_positions_is_refused(
    family: str, backbone: LoadBackbone
) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.max_length: .* knows 256 positions.* 257"):
        backbone(family, max_length=257)
    longest = (np.arange(256) % 200).astype(np.int32)
    assert np.isfinite(backbone(family, max_length=256).vectors([longest])).all()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_rotary_positions_have_no_end(family: str, backbone: LoadBackbone) -> None:
    assert backbone(family, max_length=4096).causal


def test_soft_capped_scores_are_capped_whatever_attention_is_the_default(
    decoder: Callable[..., Any], relative_error: RelativeError, tmp_path: Path
) -> None:
    """SDPA knows no capping, and transformers 5.17 takes it for Gemma 2 without a word."""
    decoder("Gemma2").save_pretrained(tmp_path)
    config = BackboneConfig(name="x", dtype="float32", max_length=256)
    made = TorchBackbone(tmp_path, config, device="cpu")
    ids = random_sequences(0)[2]
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids[None].astype(np.int64))).last_hidden_state[0, -1]
    assert made.sharing
    assert relative_error(made.reference_vector(ids), expected.numpy()) < TOLERANCE
    assert relative_error(made.vectors([ids])[0], expected.numpy()) < TOLERANCE


ELASTIC = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
        "factor": 4.0,
    },
}


@pytest.mark.parametrize(("kind", "reach"), [("dynamic", 256), ("longrope", 64)])
def test_positions_that_stretch_with_the_pass_are_refused_beyond_their_reach(
    kind: str, reach: int, decoder: Callable[..., Any], tmp_path: Path
) -> None:
    """A short sequence beside a long one would get another vector than beside a short one."""
    decoder("Llama", rope_parameters=ELASTIC[kind]).save_pretrained(tmp_path)
    config = BackboneConfig(name="x", dtype="float32", max_length=reach)
    made = TorchBackbone(tmp_path, config, device="cpu")
    short, long = random_sequences(0)[0], (np.arange(reach) % 200).astype(np.int32)
    assert np.allclose(
        made.vectors([short, long])[0], made.reference_vector(short), rtol=1e-4, atol=1e-5
    )
    config = BackboneConfig(name="x", dtype="float32", max_length=reach + 1)
    message = rf"backbone\.max_length: x stretches .* expected {reach} or less, found {reach + 1}"
    with pytest.raises(ConfigError, match=message):
        TorchBackbone(tmp_path, config, device="cpu")


def test_the_stable_rope_length_covers_every_kind_of_layer() -> None:
    plain = {"rope_type": "default", "rope_theta": 1.0}
    layers = {"full_attention": ELASTIC["longrope"], "sliding_attention": plain}
    config = SimpleNamespace(rope_parameters=layers, max_position_embeddings=512)
    assert stable_rope_length(config) == 64
    assert stable_rope_length(SimpleNamespace(rope_parameters=plain)) is None
    assert stable_rope_length(SimpleNamespace()) is None


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder whose positions are numbered from behind its padding id."""
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        pad_token_id=1,
        initializer_range=0.2,
    )
    directory = tmp_path_factory.mktemp("roberta")
    RobertaModel(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("side", SIDES)
def test_positions_that_start_behind_the_padding_id_are_right_on_either_side(
    side: str, roberta: Path, relative_error: RelativeError
) -> None:
    config = BackboneConfig(name="roberta", dtype="float32", max_length=64)
    model = TorchBackbone(roberta, config, device="cpu", padding_side=side)
    random = np.random.default_rng(5)
    sequences = [random.integers(2, 200, size).astype(np.int32) for size in (3, 64, 17)]
    expected = [own_states(roberta, ids.tolist()).mean(axis=0) for ids in sequences]
    actual = model.vectors(sequences)
    assert relative_error(actual, np.array(expected)) < TOLERANCE
    with pytest.raises(ConfigError, match="knows 64 positions"):
        TorchBackbone(roberta, BackboneConfig(name="roberta", max_length=65), device="cpu")
