"""Fingerprint of the inputs of an embedding run: the same inputs need no second run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.fingerprint import code_fingerprint, fingerprint
from ..configs.schema import DEMO_ENCODER, Config
from .model_files import file_sha256, find_model
from .sources.contexts import BUILT_IN, NO_CONTEXTS
from .sources.pair import DataError


def input_fingerprint(config: Config) -> str:
    """Fingerprint of code, data, contexts, backbone, views and stage-2 pool.

    Files count by their contents, not their paths.

    Raises ``DataError`` if a file or directory is missing, and ``ConfigError`` if a local backbone
    is not usable.
    """
    data = asdict(config.data)
    data.pop("name")
    return fingerprint(
        code_fingerprint("embed"),
        [_with_contents(part) for part in (data, *data.pop("parts"))],
        config.backbone,
        _weights(config),
        config.views,
        [config.adapt.pool, config.adapt.group],
    )


def _with_contents(data: dict[str, Any]) -> dict[str, Any]:
    """Settings of a data set, with the names of files replaced by hashes of their contents."""
    file_keys = ("train", "test", "contexts", "corrections")
    # A part of a union does not have all of these keys.
    hashes = {key: _file_content(data[key]) for key in file_keys if key in data}
    return data | hashes | {"dir": _directory_contents(data["dir"])}


def _directory_contents(directory: str | None) -> list[list[str]] | None:
    """Names and hashes of a directory's files; ``DataError`` if there is no such directory."""
    if directory is None:
        return None
    if not Path(directory).is_dir():
        raise DataError(f"{directory}: no such directory; give an existing one with --data.dir")
    files = sorted(path for path in Path(directory).iterdir() if path.is_file())
    return [[path.name, file_sha256(path)] for path in files]


def _file_content(path: str | None) -> str | None:
    """Hash of a file, or the name itself for built-in contexts; ``DataError`` if it is missing."""
    if path is None or path in (*BUILT_IN, NO_CONTEXTS):
        return path
    if not Path(path).is_file():
        raise DataError(
            f"{path}: no such file; give existing ones with --data.train, --data.test, "
            "--data.contexts and --data.corrections"
        )
    return file_sha256(Path(path))


def _weights(config: Config) -> str:
    """Hash of a local backbone's files; a Hub model counts by name, without network."""
    if config.backbone.name == DEMO_ENCODER or Path(config.backbone.name).is_dir():
        files = find_model(config.backbone)
        return f"{files.weights_sha256} {files.tokenizer_sha256}"
    return f"{config.backbone.name}@{config.backbone.revision}"
