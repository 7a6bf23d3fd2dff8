"""Trained methods on disk: ``model.safetensors`` for arrays, ``model.json`` for what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..cache.schema import StoreError, commit_file, write_json
from .features import Scaler
from .methods.interface import Trained, one_draw
from .model import ModelSpec, init

ARRAYS, SPECS = "model.safetensors", "model.json"
FORMAT_VERSION = 1


def save_models(run: Path, models: Mapping[str, Trained], scaler: Scaler) -> None:
    """Write every trained method and the scaler of their inputs; arrays first, then the index."""
    arrays = {f"scaler/{name}": value for name, value in asdict(scaler).items()}
    for method, trained in models.items():
        arrays |= {f"{method}/{path}": leaf for path, leaf in _flatten(trained.params).items()}
        arrays |= {f"{method}/curves/{name}": curve for name, curve in trained.curves.items()}
    temporary = run / f"{ARRAYS}.tmp"
    contiguous = {name: np.ascontiguousarray(np.asarray(leaf)) for name, leaf in arrays.items()}
    save_file(contiguous, temporary)
    commit_file(temporary, run / ARRAYS)
    write_json(
        run / SPECS,
        {
            "format": FORMAT_VERSION,
            "methods": {
                name: {
                    "spec": asdict(trained.spec),
                    "curves": sorted(trained.curves),
                    "draws": jax.tree.leaves(trained.params["router"])[0].shape[0],
                }
                for name, trained in models.items()
            },
        },
    )


def load_models(run: Path) -> tuple[dict[str, Trained], Scaler]:
    """Trained methods and their scaler; ``StoreError`` names a missing or misshapen leaf."""
    path = run / ARRAYS
    try:
        index = json.loads((run / SPECS).read_text("utf-8"))
        if index["format"] != FORMAT_VERSION:
            raise StoreError(
                f"{run / SPECS}: format {index['format']}, expected {FORMAT_VERSION}; "
                "run micro-rm train again"
            )
        arrays = load_file(path)
        scaler = Scaler(**{name: arrays[f"scaler/{name}"] for name in Scaler.__annotations__})
        models = {
            name: _trained(name, item, arrays, path) for name, item in index["methods"].items()
        }
    except FileNotFoundError as error:
        raise StoreError(f"{run}: no trained model here; run micro-rm train") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise StoreError(
            f"{path}: damaged model or {SPECS} beside it ({error}); run micro-rm train again"
        ) from error
    return models, scaler


def _trained(
    method: str, item: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: Path
) -> Trained:
    spec = ModelSpec(**item["spec"])
    shapes = jax.eval_shape(lambda: one_draw(init(spec, jax.random.key(0))))
    leaves = {}
    for name, shape in _flatten(shapes).items():
        found = arrays[f"{method}/{name}"]
        draws = item["draws"] if name.startswith("router") else None
        expected = shape.shape if draws is None else (draws, *shape.shape[1:])
        if found.shape != expected:
            raise StoreError(
                f"{path}: {method}/{name} is {found.shape}, expected {expected}; "
                "run micro-rm train again"
            )
        leaves[name] = found
    structure = jax.tree.structure(shapes)
    params = jax.tree.unflatten(structure, [leaves[name] for name in _flatten(shapes)])
    curves = {name: arrays[f"{method}/curves/{name}"] for name in item["curves"]}
    return Trained(spec, params, curves)


def _flatten(tree: Any) -> dict[str, Any]:
    paths, _ = jax.tree.flatten_with_path(tree)
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in paths}
