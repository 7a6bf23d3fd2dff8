"""What the inputs of an embedding run are, as a fingerprint: the same inputs need no second run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..configs.record import code_fingerprint, fingerprint
from ..configs.schema import DEMO_ENCODER, Config
from .sources.pair import DataError
from .weights import file_sha256, find_model


def input_fingerprint(config: Config) -> str:
    """Fingerprint of code, data, contexts, backbone, views and pool; contents, not their paths."""
    data = asdict(config.data)
    for key in ("name", "train", "test", "contexts"):
        data.pop(key)
    contents = [_content(path) for path in (config.data.train, config.data.test)]
    return fingerprint(
        code_fingerprint("embed"),
        data,
        [*contents, _content(config.data.contexts)],
        config.backbone,
        _weights(config),
        config.views,
        [config.adapt.pool, config.adapt.group],
    )


def _content(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise DataError(
            f"{path}: no such file; give existing ones with --data.train, --data.test and "
            "--data.contexts"
        )
    return file_sha256(Path(path))


def _weights(config: Config) -> str:
    """Bytes of a local backbone; a hub model is named by id and revision, without the network."""
    if config.backbone.name == DEMO_ENCODER or Path(config.backbone.name).is_dir():
        files = find_model(config.backbone)
        return f"{files.weights_sha256} {files.tokenizer_sha256}"
    return f"{config.backbone.name}@{config.backbone.revision}"
