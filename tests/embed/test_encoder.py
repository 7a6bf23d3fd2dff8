"""A backbone with its tokenizer, and the identity of the vectors that they make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig, EmbedConfig
from micro_rm.embed.encoder import Encoder, load_encoder

LoadEncoder = Callable[..., Encoder]
ON_CPU = EmbedConfig(device="cpu")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dtype": "bfloat16"}, "dtype"),
        ({"max_length": 100}, "max_length"),
        ({"bos": "none"}, "bos"),
        ({"pooling": "mean"}, "pooling"),
        ({"template": "plain"}, "template"),
    ],
)
def test_settings_that_change_vectors_change_the_identity(
    changes: dict[str, Any], field: str, encoder: LoadEncoder
) -> None:
    """The difference names the field."""
    differences = encoder("llama").identity.differences(encoder("llama", **changes).identity)
    assert any(line.startswith(f"{field}: ") for line in differences)


def test_other_weights_and_another_template_are_another_identity(
    tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """Manifest hash changes if the template changes."""
    directory = save_backbone(tmp_path, "llama")

    def identity() -> Any:
        return load_encoder(BackboneConfig(name=str(directory), dtype="float32"), ON_CPU).identity

    first = identity()
    assert first.differences(identity()) == []
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    fields = {line.split(":")[0] for line in first.differences(identity())}
    assert fields == {"tokenizer", "template", "probe"}
    second = identity()
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [line.split(":")[0] for line in second.differences(identity())] == ["weights"]


def test_the_pooling_in_the_identity_is_the_one_that_is_used(encoder: LoadEncoder) -> None:
    assert encoder("llama").identity.pooling == "last"
    assert encoder("bert").identity.pooling == "mean"


def test_where_a_backbone_lies_is_not_what_it_is(
    monkeypatch: pytest.MonkeyPatch, backbone_path: Callable[[str], Path]
) -> None:
    directory = backbone_path("llama")
    monkeypatch.chdir(directory.parent)
    first, second = (
        load_encoder(BackboneConfig(name=name, dtype="float32"), ON_CPU).identity
        for name in (str(directory), directory.name)
    )
    assert first.backbone != second.backbone
    assert first.differences(second) == []


@pytest.mark.parametrize("change", ["rope_theta", "rms_norm_eps"])
def test_the_models_config_is_part_of_its_identity(
    change: str, tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """The same weights under another base frequency or epsilon give other vectors."""
    config = BackboneConfig(name=str(save_backbone(tmp_path, "llama")), dtype="float32")
    before = load_encoder(config, ON_CPU).identity
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    if change == "rope_theta":
        raw["rope_parameters"]["rope_theta"] = 7.0
    else:
        raw["rms_norm_eps"] = 0.5
    path.write_text(json.dumps(raw))
    (difference,) = before.differences(load_encoder(config, ON_CPU).identity)
    assert difference.startswith("weights: ")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_tokenizer_that_cannot_be_used_is_a_config_error(
    damage: str, tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    save_backbone(tmp_path, "llama")
    if damage == "missing":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "tokenizer_config.json").unlink()
    else:
        (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"backbone\.name: .* has no usable tokenizer"):
        load_encoder(BackboneConfig(name=str(tmp_path)), ON_CPU)


@pytest.mark.parametrize(
    "changes",
    [{"bin_tokens": 7}, {"share_prefixes": False}, {"shard_tokens": 9}, {"shards": "1/4"}],
)
def test_how_a_pass_runs_is_no_part_of_the_identity(
    changes: dict[str, Any], encoder: LoadEncoder
) -> None:
    other = encoder("llama", EmbedConfig(device="cpu", **changes))
    assert other.identity == encoder("llama", ON_CPU).identity


def test_the_settings_of_the_pass_reach_the_backbone(encoder: LoadEncoder) -> None:
    alone = encoder("llama", EmbedConfig(device="cpu", bin_tokens=77, share_prefixes=False))
    assert (alone.backbone.bin_tokens, alone.backbone.sharing) == (77, False)
    assert encoder("llama", ON_CPU).backbone.sharing
    assert encoder("llama", ON_CPU).backbone.bin_tokens == 1536


def test_weights_are_loaded_when_they_are_needed_and_once(
    tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """Refusals of the tokenizer or of the files cost no model."""
    directory = save_backbone(tmp_path, "llama")
    made = load_encoder(BackboneConfig(name=str(directory), dtype="float32"), ON_CPU)
    assert "backbone" not in vars(made)
    assert made.backbone is made.backbone
