"""A routed export: heads, router and backbone in files, and the code that reads them."""

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
from .hf_files import TEMPLATE, pinned_template, read_json, readable_config, readable_tokenizer
from .persona import ExportError

CODE = Path(__file__).parent / "exported"
HEADS, ROUTER = "heads.safetensors", "router.safetensors"
BACKBONE, BACKBONE_CONFIG = "backbone", "backbone_config.json"
# A tensor of every kind of router that each draw has of its own.
PER_DRAW = {"static": "logits", "linear": "output.bias", "mlp": "output.bias", "kernel": "centre"}
# No library knows this kind: loading the directory as a classifier is an error, not a number.
UNKNOWN_KIND = {"model_type": "micro_rm_routed", "architectures": ["MicroRMRouted"]}


def write_routed(place: Path, model: Model, method: str, names: Sequence[str]) -> dict[str, Any]:
    """Every file but card and settings into an empty directory; returns the settings' part.

    Raises ``ExportError`` for a method without a router.
    """
    heads, router, kind = routed_tensors(model.scorer, method)
    save_file(heads, place / HEADS)
    save_file(router, place / ROUTER)
    write_json(place / "config.json", UNKNOWN_KIND)
    for path in sorted(CODE.glob("*.py")):
        shutil.copyfile(path, place / path.name)
    _copy_backbone(model.texts.encoder, place / BACKBONE)
    settings = model.scorer.models[method].settings
    return {
        "router": kind,
        "draws": int(router[PER_DRAW[kind]].shape[0]),
        "tau": settings.get("tau") if kind == "kernel" else None,
        "sha256": {name: file_sha256(place / name) for name in (HEADS, ROUTER)},
    }


def routed_tensors(
    scorer: Scorer, method: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Tensors of heads and of the router of every draw (first axis), float32, and its kind."""
    trained = scorer.models[method]
    if "router" not in trained.params:
        fit = [name for name in scorer.names if "router" in scorer.models[name].params]
        raise ExportError(
            f"export.method: tier routed needs a method with a router ({', '.join(fit)}), found "
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
    return _plain(heads), _plain(router), kind


def text_settings(model: Model) -> dict[str, Any]:
    """How text becomes the two sequences of a response, as ``reward_funcs.py`` reads it."""
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
        "wish": FORMS[views.form],
        "head_view": views.adapt_head,
        "router_view": views.adapt_router,
    }


def _copy_backbone(encoder: Encoder, place: Path) -> None:
    source = encoder.files.directory
    place.mkdir()
    write_json(place / BACKBONE_CONFIG, readable_config(read_json(source / "config.json")))
    weights = [path.name for path in source.glob("*.safetensors*")]  # and the index of several
    for name in (*weights, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, place / name)
    settings = readable_tokenizer(read_json(place / "tokenizer_config.json"))
    if encoder.renderer.templated:
        own = str(encoder.renderer.tokenizer.chat_template)
        settings["chat_template"] = pinned_template(own, encoder.config.date)
        (place / TEMPLATE).write_text(settings["chat_template"], "utf-8")
    write_json(place / "tokenizer_config.json", settings)


def _plain(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: np.array(tensor, np.float32, order="C", copy=True) for name, tensor in tensors.items()
    }
