"""``micro-rm export``: write a trained run as files that other tools load, and verify them.

The files are written into a hidden directory beside the destination, loaded again as their users
will load them and compared with the run's own scores. Only then is the directory renamed.
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
SETTINGS, GOLDEN, CARD = "micro_rm.json", "golden.json", "README.md"


def export_run(
    run: Path, config: ExportConfig, *, device: str = "auto", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Export a trained run and return the content of its ``micro_rm.json``.

    Args:
        run: Run directory.
        config: Destination, tier, method and persona.
        device: Device of the backbone that computes the golden scores.
        say: Called with a line of progress.

    Raises ``ExportError`` if the run cannot be exported as requested or the export's scores differ
    from the run's, and ``ConfigError`` if the destination is missing or not empty. A failed export
    leaves nothing behind.
    """
    to = _check_destination(run, config)
    if config.context and redact(config.context) != config.context:
        raise ConfigError("export.context: holds what looks like a token or a password")
    model = load(run, device=device)
    method = choose_method(model, config)
    say(f"export   {method} of {run}, tier {config.tier}")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".partial", dir=to.parent))
    try:
        facts = _write_files(partial, model, method, config)
        _sync(partial)
        os.replace(partial, to)
        sync_directory(to.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(
        f"export   {facts['golden_texts']} texts scored again: largest difference "
        f"{facts['trial']['largest_difference']:.1e}"
    )
    say(f"export   {to}, see {CARD} there")
    return facts


def _write_files(
    directory: Path, model: Model, method: str, config: ExportConfig
) -> dict[str, Any]:
    """Write and verify every file of the export; golden scores, settings and card come last."""
    report = read_report(model.run)
    names = head_names(report, method, len(raw_heads(model.scorer, method)))
    text = text_settings(model)
    facts: dict[str, Any] = {
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
        facts |= write_routed(directory, model, method, names)
        write_json(directory / SETTINGS, facts)  # read by the exported code
        trial = verify_routed(directory, golden, text["dtype"])
    else:
        facts |= _write_linear(directory, model, method, config, golden, names)
        trial = verify_classifier(directory, golden, text["dtype"])
    facts |= {"trial": trial, "golden_texts": len(golden)}
    write_json(directory / GOLDEN, golden)
    write_json(directory / SETTINGS, facts)
    (directory / CARD).write_text(render_card(model, facts, report), "utf-8")
    return facts


def _write_linear(
    directory: Path,
    model: Model,
    method: str,
    config: ExportConfig,
    golden: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    """Write a collapsed or multihead model and add its expected ``scores`` to every golden text."""
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
    """The destination, which must be new or an empty directory outside of the run."""
    if config.to is None:
        raise ConfigError("export.to: expected a directory to make, found none; give --to DIR")
    to = Path(config.to)
    if to.is_symlink() or (to.exists() and not (to.is_dir() and not any(to.iterdir()))):
        raise ConfigError(
            f"export.to: expected a directory that does not exist or is empty, found {to}; name "
            "another, or remove it"
        )
    if run.resolve() in (to.resolve(), *to.resolve().parents):
        raise ConfigError(
            f"export.to: expected a directory outside of the run {run}, found {to}; a run "
            "directory holds what the run has made"
        )
    return to


def _sync(directory: Path) -> None:
    """Sync every file and directory to disk and give them the usual permissions.

    ``mkdtemp`` and some writers create them readable by the owner only.
    """
    umask = os.umask(0)  # can only be read by setting it
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
