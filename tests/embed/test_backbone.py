"""A vector depends on its own tokens: not on batch, neighbours, order or padding (G-F6)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

from micro_rm.cache.schema import sequence_key
from micro_rm.configs.schema import BackboneConfig, ConfigError
from micro_rm.embed.backbone import TorchBackbone, collate, pick_device, to_numpy
from micro_rm.embed.planning import Pass, plan_batches, plan_passes

FAMILIES = ("llama", "qwen2", "gpt2", "bert")
SIDES = ("right", "left")
TOLERANCE = 1e-5
LoadBackbone = Callable[..., TorchBackbone]
RelativeError = Callable[[np.ndarray, np.ndarray], float]
Single = Callable[[Sequence[int]], Pass]
# Any ids, id 0 included: padding repeats it, so a real one must not be taken for padding.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 200), min_size=1, max_size=40).map(tuple),
    min_size=1,
    max_size=12,
    unique=True,
)


def random_sequences(seed: int, number: int = 12) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        random.integers(0, 200, size).astype(np.int32) for size in random.integers(1, 60, number)
    ]


def own_states(directory: Path, ids: Sequence[int]) -> np.ndarray:
    """What transformers itself gives for one sequence without any padding."""
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(torch.tensor([list(ids)], dtype=torch.int64)).last_hidden_state
    return states[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", SIDES)
def test_a_vector_is_the_same_alone_and_among_any_neighbours(
    family: str, side: str, backbone: LoadBackbone, single: Single, relative_error: RelativeError
) -> None:
    """G-F6."""
    model = backbone(family, side)
    passes = [single(ids) for ids in random_sequences(0)]
    alone = np.concatenate([model.vectors([item]) for item in passes])
    assert relative_error(model.vectors(passes), alone) < TOLERANCE
    assert relative_error(model.vectors(passes[::-1])[::-1], alone) < TOLERANCE
    longest = max(passes, key=lambda item: len(item.token_ids))
    for item, expected in zip(passes, alone, strict=True):
        assert relative_error(model.vectors([item, longest])[:1], expected[None]) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_the_same_under_either_padding_side(
    family: str, backbone: LoadBackbone, single: Single, relative_error: RelativeError
) -> None:
    """G-F6."""
    passes = [single(ids) for ids in random_sequences(1)]
    right, left = (backbone(family, side).vectors(passes) for side in SIDES)
    assert relative_error(left, right) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=15, deadline=None)
@given(sequences=SEQUENCES, budget=st.integers(1, 300))
def test_a_vector_is_the_same_in_every_plan(
    family: str,
    side: str,
    backbone: LoadBackbone,
    single: Single,
    relative_error: RelativeError,
    sequences: list[tuple[int, ...]],
    budget: int,
) -> None:
    """G-F6, for random sequences, batch compositions and budgets."""
    model = backbone(family, side)
    wanted = {sequence_key(ids): np.array(ids, np.int32) for ids in sequences}
    found: dict[bytes, np.ndarray] = {}
    for batch in plan_batches(plan_passes(wanted, share_prefixes=model.share_prefixes), budget):
        keys = [key for item in batch for key in item.keys]
        found.update(zip(keys, model.vectors(batch), strict=True))
    assert found.keys() == wanted.keys()
    for key, ids in wanted.items():
        assert relative_error(found[key], model.vectors([single(ids)])[0]) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        (family, pooling)
        for family in FAMILIES
        for pooling in ("last", "mean", "cls")
        if (family, pooling) != ("bert", "last")  # refused, see below
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_pooling_reads_what_it_says_from_the_models_own_states(
    family: str,
    pooling: str,
    side: str,
    backbone: LoadBackbone,
    backbone_path: Callable[[str], Path],
    single: Single,
    relative_error: RelativeError,
) -> None:
    sequences = random_sequences(2, 4)
    found = backbone(family, side, pooling=pooling).vectors([single(ids) for ids in sequences])
    for vector, ids in zip(found, sequences, strict=True):
        states = own_states(backbone_path(family), ids.tolist())
        expected = {"last": states[-1], "mean": states.mean(axis=0), "cls": states[0]}[pooling]
        assert relative_error(vector, expected) < TOLERANCE


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
    assert (model.causal, model.pooling, model.share_prefixes) == (causal, pooling, causal)


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
    assert not backbone("llama", pooling=pooling).share_prefixes


def test_the_last_token_of_a_bidirectional_model_is_refused(backbone: LoadBackbone) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.pooling.*use mean or cls"):
        backbone("bert", pooling="last")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", SIDES)
def test_the_state_of_padding_is_never_read(
    family: str,
    side: str,
    settings: Callable[..., BackboneConfig],
    backbone_path: Callable[[str], Path],
    single: Single,
) -> None:
    model = TorchBackbone(backbone_path(family), settings(family), device="cpu", padding_side=side)
    random = np.random.default_rng(3)
    passes = [single(random.integers(1, 200, size)) for size in (3, 30, 9, 17)]
    before = model.vectors(passes)
    with torch.no_grad():
        model.model.get_input_embeddings().weight[0] = 100.0
    assert np.array_equal(model.vectors(passes), before)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("side", SIDES)
def test_prefixes_read_from_a_longer_pass_equal_their_own_passes(
    family: str, side: str, backbone: LoadBackbone, single: Single, relative_error: RelativeError
) -> None:
    """G-F3: several read-outs per pass, in the order of passes and read-outs."""
    model = backbone(family, side)
    passes, expected = [], []
    for ids in random_sequences(4, 5):
        places = tuple(sorted({len(ids) - 1, len(ids) // 2, 0}, reverse=True))
        keys = tuple(sequence_key(ids[: place + 1]) for place in places)
        passes.append(Pass(ids, places, keys))
        expected += [model.vectors([single(ids[: place + 1])])[0] for place in places]
    assert relative_error(model.vectors(passes), np.array(expected)) < TOLERANCE


def test_vectors_come_in_the_type_and_width_of_the_backbone(
    backbone: LoadBackbone, single: Single, relative_error: RelativeError
) -> None:
    item = single([5, 6, 7])
    full, half = backbone("llama"), backbone("llama", dtype="bfloat16")
    assert full.vectors([item, item]).shape == (2, full.width)
    assert full.vectors([item]).dtype == np.float32
    assert half.vectors([item]).dtype == ml_dtypes.bfloat16
    assert relative_error(half.vectors([item]), full.vectors([item])) < 3e-2


def test_bfloat16_reaches_numpy_bit_by_bit() -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    found = to_numpy(values)
    assert found.dtype == ml_dtypes.bfloat16
    assert np.array_equal(found.view(np.int16), np.arange(-(2**15), 2**15, dtype=np.int16))


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
    found = collate([np.array([7, 8, 9], np.int32), np.array([5], np.int32)], side)
    assert [array.tolist() for array in found] == [ids, mask, starts]


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


def test_a_missing_pooler_is_no_loss(
    tmp_path: Path, save_backbone: Callable[..., Path], single: Single
) -> None:
    """Sentence encoders come without one; the states before it do not need it."""
    weights = save_backbone(tmp_path, "bert") / "model.safetensors"
    config = BackboneConfig(name="x", dtype="float32", max_length=256)
    before = TorchBackbone(tmp_path, config, device="cpu").vectors([single([5, 6, 7])])
    tensors = {key: value for key, value in load_file(weights).items() if "pooler" not in key}
    save_file(tensors, weights, {"format": "pt"})
    after = TorchBackbone(tmp_path, config, device="cpu").vectors([single([5, 6, 7])])
    assert np.array_equal(before, after)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_max_length_beyond_the_learned_positions_is_refused(
    family: str, backbone: LoadBackbone, single: Single
) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.max_length: .* knows 256 positions.* 257"):
        backbone(family, max_length=257)
    longest = single((np.arange(256) % 200).tolist())
    assert np.isfinite(backbone(family, max_length=256).vectors([longest])).all()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_rotary_positions_have_no_end(family: str, backbone: LoadBackbone) -> None:
    assert backbone(family, max_length=4096).causal


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
    side: str, roberta: Path, single: Single, relative_error: RelativeError
) -> None:
    config = BackboneConfig(name="roberta", dtype="float32", max_length=64)
    model = TorchBackbone(roberta, config, device="cpu", padding_side=side)
    random = np.random.default_rng(5)
    sequences = [random.integers(2, 200, size).tolist() for size in (3, 64, 17)]
    expected = [own_states(roberta, ids).mean(axis=0) for ids in sequences]
    found = model.vectors([single(ids) for ids in sequences])
    assert relative_error(found, np.array(expected)) < TOLERANCE
    with pytest.raises(ConfigError, match="knows 64 positions"):
        TorchBackbone(roberta, BackboneConfig(name="roberta", max_length=65), device="cpu")
