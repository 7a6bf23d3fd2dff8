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
    ("field", "value"),
    [
        ("dtype", "bfloat16"),
        ("max_length", 100),
        ("bos", "none"),
        ("pooling", "mean"),
        ("template", "plain"),
    ],
)
def test_settings_that_change_vectors_change_the_identity(
    field: str, value: Any, encoder: LoadEncoder
) -> None:
    """The difference names the field."""
    other = encoder("llama", **{field: value}).identity
    differences = encoder("llama").identity.differences(other)
    assert any(line.startswith(f"{field}: ") for line in differences)


def test_other_weights_and_another_template_are_another_identity(
    tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """So is another configuration: the same weights under another epsilon give other vectors."""
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
    third = identity()
    assert [line.split(":")[0] for line in second.differences(third)] == ["weights"]
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    assert [line.split(":")[0] for line in third.differences(identity())] == ["weights"]


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


def test_how_a_pass_runs_reaches_the_backbone_and_is_no_part_of_the_identity(
    encoder: LoadEncoder,
) -> None:
    usual = encoder("llama", ON_CPU)
    assert (usual.backbone.bin_tokens, usual.backbone.sharing) == (1536, True)
    other = encoder(
        "llama",
        EmbedConfig(
            device="cpu", bin_tokens=77, share_prefixes=False, shard_tokens=9, shards="1/4"
        ),
    )
    assert (other.backbone.bin_tokens, other.backbone.sharing) == (77, False)
    assert other.identity == usual.identity


def test_weights_are_loaded_when_they_are_needed_and_once(
    tmp_path: Path, save_backbone: Callable[..., Path]
) -> None:
    """Refusals of the tokenizer or of the files cost no model."""
    directory = save_backbone(tmp_path, "llama")
    made = load_encoder(BackboneConfig(name=str(directory), dtype="float32"), ON_CPU)
    assert "backbone" not in vars(made)
    assert made.backbone is made.backbone
    assert made.identity.pooling == "last"  # the one that auto stands for
