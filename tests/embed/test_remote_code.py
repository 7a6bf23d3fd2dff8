"""A backbone's directory is data: code, pickles, kernels and files elsewhere are refused unread."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig, EmbedConfig
from micro_rm.embed.encoder import load_encoder
from micro_rm.embed.remote_code import refuse_code

BackbonePath = Callable[[str], Path]
CODE = "modeling_evil.EvilModel"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (Path.touch, (self.proof,))


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "proof"


@pytest.fixture
def model(tmp_path: Path, proof: Path, backbone_path: BackbonePath) -> Path:
    """A sound backbone in a directory full of code and pickles that leave a proof if run."""
    directory = Path(shutil.copytree(backbone_path("llama"), tmp_path / "model"))
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nclass EvilModel: pass\n"
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil", "__init__"):
        (directory / f"{name}.py").write_text(code, "utf-8")
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt"):
        (directory / name).write_bytes(pickle.dumps(Bomb(proof)))
    return directory


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(content), "utf-8")


def load(directory: Path) -> None:
    encoder = load_encoder(BackboneConfig(name=str(directory)), EmbedConfig(device="cpu"))
    assert encoder.backbone.width == 32


def test_code_and_pickles_beside_a_sound_model_are_left_alone(model: Path, proof: Path) -> None:
    load(model)
    assert not proof.exists()


def test_the_planted_files_work(model: Path, proof: Path) -> None:
    """Without this the other tests prove nothing."""
    pickle.loads((model / "model.pt").read_bytes())
    assert proof.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"auto_map": {"AutoModel": CODE}}, "asks for AutoModel from code.*never run"),
        (
            {"model_type": "evil", "auto_map": {"AutoConfig": "configuration_evil.EvilConfig"}},
            "asks for AutoConfig from code",
        ),
        ({"model_type": "evil"}, "cannot be loaded"),
        ({"auto_map": 3}, "expected auto_map to be an object"),
        ({"attn_implementation": "someone/evil-kernel"}, "compiled code from the hub"),
        ({"text_config": {"_attn_implementation": "someone/evil"}}, "compiled code from the hub"),
        ({"transformers_weights": "../proof.safetensors"}, "lists '../proof.safetensors'"),
        ({"transformers_weights": "pytorch_model.bin"}, "lists 'pytorch_model.bin' as weights"),
    ],
)
def test_a_model_that_asks_for_more_than_data_is_refused(
    changes: dict[str, Any], expected: str, model: Path, proof: Path
) -> None:
    edit(model / "config.json", **changes)
    with pytest.raises(ConfigError, match=expected):
        load(model)
    assert not proof.exists() and "modeling_evil" not in sys.modules


@pytest.mark.parametrize(
    "auto_map", [{"AutoTokenizer": ["tokenization_evil.T", None]}, ["tokenization_evil.T", None]]
)
def test_a_tokenizer_of_its_own_is_refused(auto_map: Any, model: Path, proof: Path) -> None:
    edit(model / "tokenizer_config.json", auto_map=auto_map)
    with pytest.raises(ConfigError, match=r"asks for a tokenizer from code.*never run"):
        load(model)
    assert not proof.exists()


def test_code_for_another_class_of_a_known_model_is_not_asked_for(model: Path) -> None:
    """Reward models bring a head in code; the backbone below it is one that transformers has."""
    names = ("AutoConfig", "AutoModelForSequenceClassification")
    edit(model / "config.json", auto_map={name: CODE for name in names})
    load(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../elsewhere.safetensors", 3])
def test_an_index_lists_safetensors_of_its_directory_only(
    name: Any, model: Path, proof: Path
) -> None:
    """transformers would unpickle the first: the directory has a safetensors file all the same."""
    index = {"metadata": {}, "weight_map": {"embed_tokens.weight": name}}
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(ConfigError, match=r"only \.safetensors files of the same directory"):
        load(model)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", "[1]"), ("config.json", "[" * 100_000), ("tokenizer_config.json", "{")],
)
def test_settings_that_are_no_json_object_are_named(name: str, text: str, model: Path) -> None:
    (model / name).write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=name):
        refuse_code(model)


def test_weights_that_are_no_safetensors_are_refused(model: Path, proof: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.pt").read_bytes())
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(model)
    assert not proof.exists()
