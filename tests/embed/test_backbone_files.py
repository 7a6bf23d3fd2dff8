"""What a backbone's files must hold, and how far its positions reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.backbone import TorchBackbone, pick_device, stable_rope_length
from micro_rm.tests.embed.tiny_models import decoder
from micro_rm.tests.embed.token_sequences import (
    arrays,
    own_states,
    random_sequences,
    relative_error,
)

TOLERANCE = 1e-5
LoadBackbone = Callable[..., TorchBackbone]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}


def loaded(directory: Path, max_length: int = 256, **options: Any) -> TorchBackbone:
    config = BackboneConfig(name="x", dtype="float32", max_length=max_length)
    return TorchBackbone(directory, config, device="cpu", **options)


def test_the_model_is_frozen_and_in_evaluation_mode(backbone: LoadBackbone) -> None:
    model = backbone("gpt2").model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_class_with_a_causal_mask_is_found_causal(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=50, is_decoder=True, **SMALL)).save_pretrained(tmp_path)
    assert loaded(tmp_path, 64).causal


def test_the_last_token_of_a_bidirectional_model_is_refused(backbone: LoadBackbone) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.pooling.*use mean or cls"):
        backbone("bert", pooling="last")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_a_missing_cuda_device_is_named() -> None:
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"embed\.device: cuda asked for"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"model_type": "unheard-of"}, "cannot be loaded"),
        ({"intermediate_size": 64}, "cannot be loaded"),
        ({"num_hidden_layers": 3}, "lacks the weights layers.2"),
        ("truncated", "cannot be loaded"),
        ("a tensor less", r"lacks the weights layers\.1\.mlp.*which would be random"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_not_made_up(
    damage: dict[str, Any] | str, words: str, tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """Random weights in place of missing ones would give vectors that no other run gives."""
    weights = save_backbone(tmp_path, "llama") / "model.safetensors"
    if isinstance(damage, dict):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        tensors = load_file(weights)
        del tensors["layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"backbone\.name: .*{words}"):
        loaded(tmp_path)


def test_a_missing_pooler_is_no_loss(tmp_path: Path, save_backbone: Callable[..., Path]) -> None:
    """Sentence encoders come without one; the states before it do not need it."""
    weights = save_backbone(tmp_path, "bert") / "model.safetensors"
    before = loaded(tmp_path).vectors(arrays([(5, 6, 7)]))
    tensors = {key: value for key, value in load_file(weights).items() if "pooler" not in key}
    save_file(tensors, weights, {"format": "pt"})
    assert np.array_equal(loaded(tmp_path).vectors(arrays([(5, 6, 7)])), before)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_max_length_beyond_the_learned_positions_is_refused(
    family: str, backbone: LoadBackbone
) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.max_length: .* knows 256 positions.* 257"):
        backbone(family, max_length=257)
    longest = (np.arange(256) % 200).astype(np.int32)
    assert np.isfinite(backbone(family, max_length=256).vectors([longest])).all()


def test_rotary_positions_have_no_end(backbone: LoadBackbone) -> None:
    assert backbone("llama", max_length=4096).causal


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
    kind: str, reach: int, tmp_path: Path
) -> None:
    """A short sequence beside a long one would get another vector than beside a short one."""
    decoder("Llama", rope_parameters=ELASTIC[kind]).save_pretrained(tmp_path)
    made = loaded(tmp_path, reach)
    short, long = random_sequences(0)[0], (np.arange(reach) % 200).astype(np.int32)
    assert np.allclose(
        made.vectors([short, long])[0], made.reference_vector(short), rtol=1e-4, atol=1e-5
    )
    message = rf"backbone\.max_length: x stretches .* expected {reach} or less, found {reach + 1}"
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, reach + 1)


def test_the_stable_rope_length_covers_every_kind_of_layer() -> None:
    plain = {"rope_type": "default", "rope_theta": 1.0}
    layers = {"full_attention": ELASTIC["longrope"], "sliding_attention": plain}
    config = SimpleNamespace(rope_parameters=layers, max_position_embeddings=512)
    assert stable_rope_length(config) == 64
    assert stable_rope_length(SimpleNamespace(rope_parameters=plain)) is None
    assert stable_rope_length(SimpleNamespace()) is None


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_that_start_behind_the_padding_id_are_right_on_either_side(
    side: str, tmp_path: Path
) -> None:
    """As those of RoBERTa do."""
    torch.manual_seed(3)
    config = RobertaConfig(vocab_size=200, max_position_embeddings=66, pad_token_id=1, **SMALL)
    RobertaModel(config).save_pretrained(tmp_path)
    random = np.random.default_rng(5)
    sequences = [random.integers(2, 200, size).astype(np.int32) for size in (3, 64, 17)]
    own = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = np.array([own_states(own, ids).mean(axis=0) for ids in sequences])
    actual = loaded(tmp_path, 64, padding_side=side).vectors(sequences)
    assert relative_error(actual, expected) < TOLERANCE
    with pytest.raises(ConfigError, match="knows 64 positions"):
        loaded(tmp_path, 65)
