"""Routed exports: files of heads, router and backbone, with the code that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ...common.files import write_json
from ...embed.chat import FORMS
from ...embed.encoder import Encoder
from ...embed.model_files import TOKENIZER_FILES, file_sha256
from ...heads.checkpoint import flatten
from ...heads.scoring import Scorer
from ..model import Model
from .hf_files import (
    TEMPLATE,
    pinned_template,
    portable_config,
    portable_tokenizer_config,
    read_json,
)
from .persona import ExportError

CODE = Path(__file__).parent / "exported"
HEADS, ROUTER = "heads.safetensors", "router.safetensors"
BACKBONE, BACKBONE_CONFIG = "backbone", "backbone_config.json"
# For every kind of router a tensor whose first axis is the draw.
PER_DRAW = {"static": "logits", "linear": "output.bias", "mlp": "output.bias", "kernel": "centre"}
# An unknown model type makes loading the directory as a classifier an error; a known one would
# silently return rewards of a random head.
UNKNOWN_KIND = {"model_type": "micro_rm_routed", "architectures": ["MicroRMRouted"]}


def write_routed(
    directory: Path, model: Model, method: str, names: Sequence[str]
) -> dict[str, Any]:
    """Write every file but card and settings into an empty directory.

    Returns the router's entries of ``micro_rm.json``. Raises ``ExportError`` for a method without a
    router.
    """
    heads, router, kind = routed_tensors(model.scorer, method)
    save_file(heads, directory / HEADS)
    save_file(router, directory / ROUTER)
    write_json(directory / "config.json", UNKNOWN_KIND)
    for path in sorted(CODE.glob("*.py")):
        shutil.copyfile(path, directory / path.name)
    _copy_backbone(model.texts.encoder, directory / BACKBONE)
    settings = model.scorer.models[method].settings
    return {
        "router": kind,
        "draws": int(router[PER_DRAW[kind]].shape[0]),
        "tau": settings.get("tau") if kind == "kernel" else None,
        "sha256": {name: file_sha256(directory / name) for name in (HEADS, ROUTER)},
    }


def routed_tensors(
    scorer: Scorer, method: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Tensors of the heads and of the routers as float32, and the kind of router.

    The first axis of a router's tensors is the draw. Raises ``ExportError`` for a method without a
    router.
    """
    trained = scorer.models[method]
    if "router" not in trained.params:
        routed = [name for name in scorer.names if "router" in scorer.models[name].params]
        raise ExportError(
            f"export.method: tier routed needs a method with a router ({', '.join(routed)}), found "
            f"{method}; use tier collapsed with export.group"
        )
    heads = {
        "heads": np.asarray(trained.params["heads"]["kernel"]),
        "delta_scale": scorer.scaler.delta_scale_D,
    }
    router = {
        path.replace("/", "."): np.asarray(leaf)
        for path, leaf in flatten(trained.params["router"]).items()
    }
    kind = "kernel" if "projection" in router else str(trained.settings["spec"]["router"])
    if kind != "kernel":
        router |= {
            "input_mean": scorer.scaler.router_mean_D,
            "input_scale": scorer.scaler.router_scale_D,
        }
    return _contiguous(heads), _contiguous(router), kind


def text_settings(model: Model) -> dict[str, Any]:
    """Settings by which ``reward_funcs.py`` renders and tokenizes the text of a response."""
    encoder, views = model.texts.encoder, model.views
    config = encoder.config
    return {
        "templated": encoder.renderer.templated,
        "bos": config.bos,
        "date": config.date,
        "prompt_readout": config.prompt_readout,
        "pooling": encoder.backbone.pooling,
        "max_length": config.max_length,
        "dtype": config.dtype,
        "context_form": FORMS[views.form],
        "head_view": views.adapt_head,
        "router_view": views.adapt_router,
    }


def _copy_backbone(encoder: Encoder, directory: Path) -> None:
    """Copy weights and tokenizer under a configuration name that transformers does not look for."""
    source = encoder.files.directory
    directory.mkdir()
    write_json(directory / BACKBONE_CONFIG, portable_config(read_json(source / "config.json")))
    weights = [path.name for path in source.glob("*.safetensors*")]  # and their index
    for name in (*weights, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    settings = portable_tokenizer_config(read_json(directory / "tokenizer_config.json"))
    if encoder.renderer.templated:
        own = str(encoder.renderer.tokenizer.chat_template)
        settings["chat_template"] = pinned_template(own, encoder.config.date)
        (directory / TEMPLATE).write_text(settings["chat_template"], "utf-8")
    write_json(directory / "tokenizer_config.json", settings)


def _contiguous(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Contiguous float32 copies, as safetensors requires."""
    return {
        name: np.array(tensor, np.float32, order="C", copy=True) for name, tensor in tensors.items()
    }
