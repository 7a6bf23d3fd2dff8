"""Refuse backbones that need code of their own; it is never imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.errors import ConfigError

# The auto classes that are used here; custom code for others has no effect.
MODEL_CLASSES, TOKENIZER_CLASS = ("AutoConfig", "AutoModel"), "AutoTokenizer"
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
REMEDY = "choose a backbone that transformers itself knows"


def refuse_code(directory: Path) -> None:
    """Raise ``ConfigError`` if a backbone needs its own code, a Hub kernel or files elsewhere.

    transformers would not run that code either (``trust_remote_code`` is off), but it would fall
    back to a built-in class and silently give different vectors.
    """
    settings = _read_object(directory / "config.json")
    custom = _custom_classes(settings, directory / "config.json")
    for name in MODEL_CLASSES:
        # A custom configuration class is not needed where transformers knows the model type.
        if name in custom and (name == "AutoModel" or not _is_known(settings.get("model_type"))):
            raise ConfigError(
                f"backbone.name: {directory / 'config.json'} asks for {name} from code in the "
                f"model's directory ({custom[name]}), which is never run; {REMEDY}"
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
    if path.is_file() and TOKENIZER_CLASS in (custom := _custom_classes(_read_object(path), path)):
        raise ConfigError(
            f"backbone.name: {path} asks for a tokenizer from code in the model's directory "
            f"({custom[TOKENIZER_CLASS]}), which is never run; {REMEDY}"
        )


def _check_file(directory: Path, where: Path, name: Any) -> None:
    """Require a safetensors file of the directory itself: only these are checksummed and loaded."""
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
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); download the model again") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: expected a JSON object, found {type(content).__name__}; "
            "download the model again"
        )
    return content


def _custom_classes(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The ``auto_map``: which auto class would be replaced by which custom class."""
    auto_map = settings.get("auto_map") or {}
    if isinstance(auto_map, list | tuple):  # the form of old tokenizers
        return {TOKENIZER_CLASS: auto_map}
    if not isinstance(auto_map, dict):
        raise ConfigError(
            f"{path}: expected auto_map to be an object, found {auto_map!r}; {REMEDY}"
        )
    return auto_map


def _is_known(model_type: Any) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _entries(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All keys and values of a nested object."""
    for key, value in settings.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)
