"""Routed exports: heads, router and backbone as files, with the Python code that loads them."""

from __future__ import annotations

import shutil
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
# A tensor of every kind of router whose first axis is the draw of labelled rows.
PER_DRAW = {"static": "logits", "linear": "output.bias", "mlp": "output.bias", "kernel": "centre"}
# With a model type that transformers does not know, loading the directory as a classifier is an
# error. With a known one it would succeed and return the rewards of a randomly initialised head.
UNLOADABLE = {"model_type": "micro_rm_routed", "architectures": ["MicroRMRouted"]}


def write_routed(directory: Path, model: Model, method: str) -> dict[str, Any]:
    """Write every file of a routed export except the card and ``micro_rm.json``.

    Args:
        directory: An empty directory.
        model: The trained run.
        method: Name of the method.

    Returns:
        The entries of ``micro_rm.json`` that describe the router.

    Raises:
        ExportError: The method has no router.
    """
    heads, router, kind = routed_tensors(model.scorer, method)
    save_file(heads, directory / HEADS)
    save_file(router, directory / ROUTER)
    write_json(directory / "config.json", UNLOADABLE)
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
    """Collect the tensors of the heads and of the router, in float32.

    Args:
        scorer: The run's methods.
        method: Name of the method.

    Returns:
        The tensors of the heads by name, those of the router by name, and the kind of router:
        static, linear, mlp or kernel. Router tensors that were fitted per draw of labelled rows
        have the draw as their first axis.

    Raises:
        ExportError: The method has no router.
    """
    trained = scorer.models[method]
    if "router" not in trained.params:
        routed = [name for name in scorer.names if "router" in scorer.models[name].params]
        raise ExportError(
            f"export.method: tier routed needs a method with a router "
            f"({', '.join(routed) or 'this run has none'}), found {method}; use tier collapsed"
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
    """Settings with which ``reward_funcs.py`` renders, tokenizes and embeds text."""
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
    """Copy weights, tokenizer and configuration.

    The configuration gets a file name of its own, so that transformers does not load the backbone
    as a classifier with a randomly initialised head.
    """
    source = encoder.files.directory
    directory.mkdir()
    write_json(directory / BACKBONE_CONFIG, portable_config(read_json(source / "config.json")))
    weights = [path.name for path in source.glob("*.safetensors*")]  # shards and their index
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
    """Copies in float32 and C order, as safetensors requires."""
    return {
        name: np.array(tensor, np.float32, order="C", copy=True) for name, tensor in tensors.items()
    }
