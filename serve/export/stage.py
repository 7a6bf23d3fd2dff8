"""``micro-rm export``: write a trained run as files that other tools load, and verify them.

The files are written into a hidden directory next to the destination, loaded the way users will
load them, and their scores compared with the run's. Only then is the directory renamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import ConfigError
from ...common.files import sync_directory, write_json
from ...common.redact import redact
from ...common.version import __version__
from ...configs.export import ExportConfig
from ..model import Model, load
from ..names import head_names, read_report
from .card import render_card
from .classifier import write_classifier
from .golden import golden_texts, verify_classifier, verify_routed
from .persona import ExportError, choose_method, choose_persona, raw_heads
from .routed import text_settings, write_routed

FORMAT = 1
METADATA, GOLDEN, CARD = "micro_rm.json", "golden.json", "README.md"


def export_run(
    run: Path, config: ExportConfig, *, device: str = "auto", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Export a trained run. A failed export leaves nothing behind.

    Args:
        run: Run directory.
        config: Destination, tier, method and persona.
        device: Device on which the backbone computes the golden scores.
        say: Called with every line of progress.

    Returns:
        The content of the export's ``micro_rm.json``.

    Raises:
        ExportError: The run cannot be exported as requested, or the scores of the export differ
            from those of the run.
        ConfigError: The destination is missing, not empty or inside the run, or the context
            contains a secret.
        StoreError: There is no trained run in the directory.
    """
    to = _check_destination(run, config)
    if config.context and redact(config.context) != config.context:
        raise ConfigError(
            "export.context: expected text without secrets, found what looks like a token or a "
            "password; remove it, because the model card states the context"
        )
    model = load(run, device=device)
    method = choose_method(model, config)
    say(f"export   {method} of {run}, tier {config.tier}")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".partial", dir=to.parent))
    try:
        metadata = _write_files(partial, model, method, config)
        _sync(partial)
        os.replace(partial, to)
        sync_directory(to.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(
        f"export   verified on {metadata['golden_texts']} texts: scores differ from the run's by "
        f"at most {metadata['trial']['largest_difference']:.1e}"
    )
    say(f"export   wrote {to}; its {CARD} says how to load it")
    return metadata


def _write_files(
    directory: Path, model: Model, method: str, config: ExportConfig
) -> dict[str, Any]:
    """Write all files of the export and verify them; the files that state the result come last."""
    report = read_report(model.run)
    names = head_names(report, method, len(raw_heads(model.scorer, method)))
    text = text_settings(model)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "micro_rm": __version__,
        "tier": config.tier,
        "method": method,
        "heads": names,
        "text": text,
        "context": config.context,
        "group": config.group,
    }
    golden = golden_texts(
        model, method, config.context, config.group, vary_context=config.tier != "collapsed"
    )
    if config.tier == "routed":
        metadata |= write_routed(directory, model, method)
        write_json(directory / METADATA, metadata)  # the exported code reads it
        trial = verify_routed(directory, golden, text["dtype"])
    else:
        metadata |= _write_linear(directory, model, method, config, golden, names)
        trial = verify_classifier(directory, golden, text["dtype"])
    metadata |= {"trial": trial, "golden_texts": len(golden)}
    write_json(directory / GOLDEN, golden)
    write_json(directory / METADATA, metadata)
    (directory / CARD).write_text(render_card(model, metadata, report), "utf-8")
    return metadata


def _write_linear(
    directory: Path,
    model: Model,
    method: str,
    config: ExportConfig,
    golden: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    """Write a collapsed or multihead classifier; add the expected ``scores`` to the golden texts.

    Returns the entry of ``micro_rm.json`` that describes the persona, if there is one.
    """
    heads_KxD = raw_heads(model.scorer, method)
    rewards_NxK = np.array([item["head_rewards"] for item in golden])
    encoder = model.texts.encoder
    if config.tier == "multihead":
        write_classifier(directory, encoder, heads_KxD, names)
        for item, row_K in zip(golden, rewards_NxK, strict=True):
            item["scores"] = row_K.tolist()
        return {}
    persona = choose_persona(model, method, config)
    # A weighted sum of linear heads is itself one linear head.
    write_classifier(directory, encoder, persona.weights_K[None] @ heads_KxD, ["reward"])
    for item, row_K in zip(golden, rewards_NxK, strict=True):
        item["scores"] = [float(row_K @ persona.weights_K)]
    return {
        "persona": {
            "weights": persona.weights_K.tolist(),
            "origin": persona.origin,
            "spread": persona.spread,
        }
    }


def _check_destination(run: Path, config: ExportConfig) -> Path:
    """Return the destination; it must not exist or be an empty directory, and lie outside the run.

    Raises ``ConfigError`` otherwise.
    """
    if config.to is None:
        raise ConfigError("export.to: expected a directory to write, found none; give --to DIR")
    to = Path(config.to)
    if to.is_symlink() or (to.exists() and not (to.is_dir() and not any(to.iterdir()))):
        raise ConfigError(
            f"export.to: expected a directory that does not exist or is empty, found {to}; choose "
            "another, or remove this one"
        )
    if run.resolve() in (to.resolve(), *to.resolve().parents):
        raise ConfigError(
            f"export.to: expected a directory outside of the run {run}, found {to}; choose "
            "another, because a run directory holds only what the run itself wrote"
        )
    return to


def _sync(directory: Path) -> None:
    """Flush every file and directory to disk, and set the permissions that the umask gives.

    ``mkdtemp`` and some writers create files that only their owner can read.
    """
    umask = os.umask(0)  # the umask can only be read by setting it
    os.umask(umask)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            path.chmod(0o666 & ~umask)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            sync_directory(path)
    directory.chmod(0o777 & ~umask)
    sync_directory(directory)


__all__ = ["ExportError", "export_run"]
