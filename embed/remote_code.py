"""What a backbone's directory may ask for: data. Code of its own is refused, never imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.errors import ConfigError

# The classes that are loaded here; code for others is never asked for.
MODEL_CLASSES, TOKENIZER_CLASS = ("AutoConfig", "AutoModel"), "AutoTokenizer"
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
REMEDY = "choose a backbone that transformers itself knows"


def refuse_code(directory: Path) -> None:
    """Refuse a backbone that needs its own code, a kernel from the hub, or files elsewhere.

    Raises ``ConfigError``. transformers would run none of the code either (``trust_remote_code`` is
    off), but take a class of its own for it, and its vectors would silently be others.
    """
    settings = _read_object(directory / "config.json")
    wanted = _custom_classes(settings, directory / "config.json")
    for name in MODEL_CLASSES:
        # A configuration class of a kind that transformers has is not needed.
        if name in wanted and (name == "AutoModel" or not _is_known(settings.get("model_type"))):
            raise ConfigError(
                f"backbone.name: {directory / 'config.json'} asks for {name} from code in the "
                f"model's directory ({wanted[name]}), which is never run; {REMEDY}"
            )
    for key, value in _entries(settings):
        if key in KERNEL_KEYS and "/" in json.dumps(value):
            raise ConfigError(
                f"backbone.name: {directory / 'config.json'} asks for compiled code from the hub "
                f"({key}: {value!r}), which is never fetched; remove {key} from a local copy"
            )
    if "transformers_weights" in settings:
        _check_file(directory, directory / "config.json", settings["transformers_weights"])
    for index in sorted(directory.glob("*.safetensors.index.json")):
        names = _read_object(index).get("weight_map")
        if not isinstance(names, dict):
            raise ConfigError(f"{index}: no weight_map in it; download the model again")
        for name in names.values():
            _check_file(directory, index, name)
    path = directory / "tokenizer_config.json"
    if path.is_file() and TOKENIZER_CLASS in (wanted := _custom_classes(_read_object(path), path)):
        raise ConfigError(
            f"backbone.name: {path} asks for a tokenizer from code in the model's directory "
            f"({wanted[TOKENIZER_CLASS]}), which is never run; {REMEDY}"
        )


def _check_file(directory: Path, where: Path, name: Any) -> None:
    """Weights are read from checksummed safetensors files of the directory, from nothing else."""
    plain = isinstance(name, str) and name == Path(name).name
    plain = isinstance(name, str) and name == Path(name).name
    if not plain or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise ConfigError(
            f"backbone.name: {where} lists {name!r} as weights; only .safetensors files of the "
            "same directory are loaded, convert the model or choose another"
        )
    if not (directory / name).is_file():
        raise ConfigError(
            f"backbone.name: {where} lists {name!r}, which is not there; download the model again"
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); download the model again") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path}: expected a JSON object, found {type(found).__name__}; "
            "download the model again"
        )
    return found


def _custom_classes(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    found = settings.get("auto_map") or {}
    if isinstance(found, list | tuple):  # the form of old tokenizers
        return {TOKENIZER_CLASS: found}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected auto_map to be an object, found {found!r}; {REMEDY}")
    return found


def _is_known(model_type: Any) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _entries(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)
