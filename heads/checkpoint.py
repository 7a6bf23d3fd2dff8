"""Trained methods on disk: ``model.safetensors`` for arrays, ``model.json`` for what they mean.

The models of the first training seed are those that are used; the others lie under ``seeds/``, in
the same form, for evaluation alone. The index holds a checksum of the arrays and one of itself: a
changed byte is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..cache.schema import StoreError
from ..common.files import commit_file, write_json
from .features import Scaler
from .methods.interface import Trained

ARRAYS, INDEX, SEEDS = "model.safetensors", "model.json", "seeds"
FORMAT_VERSION = 3


def save_seeds(
    run: Path,
    models: Mapping[str, Sequence[Trained]],
    scaler: Scaler,
    failed: Mapping[str, str],
) -> None:
    """Write every trained method under every seed, and why others could not be fitted.

    The models of the first seed come last: where they are, those of the others are, too.
    """
    shutil.rmtree(run / SEEDS, ignore_errors=True)
    seeds = max(map(len, models.values()), default=1)
    for seed in range(seeds - 1, 0, -1):
        folder = run / SEEDS / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        own = {name: models_T[seed] for name, models_T in models.items() if len(models_T) > seed}
        save_models(folder, own, scaler)
    first = {name: models_T[0] for name, models_T in models.items()}
    save_models(run, first, scaler, {"seeds": seeds, "failed": dict(failed)})


def load_seeds(run: Path) -> tuple[dict[str, list[Trained]], Scaler]:
    """Trained methods, a model per seed, and their scaler. Raises as ``load_models`` does."""
    first, scaler = load_models(run)
    models = {name: [trained] for name, trained in first.items()}
    for seed in range(1, _index(run).get("seeds", 1)):
        for name, trained in load_models(run / SEEDS / str(seed))[0].items():
            models[name].append(trained)
    return models, scaler


def load_failures(run: Path) -> dict[str, str]:
    """By name, why a method could not be fitted. The run has models."""
    return dict(_index(run).get("failed", {}))


def _index(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / INDEX).read_text("utf-8")))


def save_models(
    run: Path,
    models: Mapping[str, Trained],
    scaler: Scaler,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write every trained method and the scaler of their inputs; arrays first, then the index.

    ``notes`` go into the index.
    """
    arrays = {f"scaler/{name}": value for name, value in asdict(scaler).items()}
    index: dict[str, Any] = {}
    for method, trained in models.items():
        params = {path: np.asarray(leaf) for path, leaf in flatten(trained.params).items()}
        arrays |= {f"{method}/params/{path}": leaf for path, leaf in params.items()}
        arrays |= {f"{method}/curves/{name}": curve for name, curve in trained.curves.items()}
        index[method] = {
            "settings": trained.settings,
            "params": {path: list(leaf.shape) for path, leaf in params.items()},
            "curves": list(trained.curves),
        }
    temporary = run / f"{ARRAYS}.tmp"
    # ascontiguousarray would give a scalar an axis.
    contiguous = {name: np.asarray(leaf, order="C") for name, leaf in arrays.items()}
    save_file(contiguous, temporary)
    content: dict[str, Any] = {**(notes or {}), "format": FORMAT_VERSION}
    content["arrays_sha256"] = _sha256(temporary.read_bytes())
    content["methods"] = json.loads(json.dumps(index))  # as it will be read: keys are texts
    commit_file(temporary, run / ARRAYS)
    write_json(run / INDEX, content | {"index_sha256": _index_sha256(content)})


def load_models(run: Path) -> tuple[dict[str, Trained], Scaler]:
    """Trained methods and their scaler.

    Raises ``StoreError`` for a missing or misshapen array and for any other changed byte.
    """
    path = run / ARRAYS
    try:
        index = json.loads((run / INDEX).read_text("utf-8"))
        if not isinstance(index, dict) or index.get("format") != FORMAT_VERSION:
            found = index.get("format") if isinstance(index, dict) else type(index).__name__
            raise StoreError(
                f"{run / INDEX}: format {found}, expected {FORMAT_VERSION}; "
                "run micro-rm train again"
            )
        arrays = load_file(path)
        scaler = Scaler(**{name: arrays[f"scaler/{name}"] for name in Scaler.__annotations__})
        models = {
            name: _trained(name, item, arrays, path) for name, item in index["methods"].items()
        }
        _check_bytes(index, run)
    except FileNotFoundError as error:
        raise StoreError(f"{run}: no trained model here; run micro-rm train") from error
    except (
        *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
        *(SafetensorError, MemoryError),
    ) as error:
        raise StoreError(
            f"{path}: damaged model or {INDEX} beside it ({error}); run micro-rm train again"
        ) from error
    return models, scaler


def _check_bytes(index: dict[str, Any], run: Path) -> None:
    expected = {ARRAYS: index["arrays_sha256"], INDEX: index.pop("index_sha256")}
    found = {ARRAYS: _sha256((run / ARRAYS).read_bytes()), INDEX: _index_sha256(index)}
    for name in (INDEX, ARRAYS):
        if found[name] != expected[name]:
            raise StoreError(
                f"{run / name}: sha256 {found[name]}, expected {expected[name]}; it was changed "
                "after it was written, run micro-rm train again"
            )


def _index_sha256(content: Mapping[str, Any]) -> str:
    """Of everything in the index but this number itself, however it is spaced."""
    return _sha256(json.dumps(content, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _trained(
    method: str, item: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: Path
) -> Trained:
    params: dict[str, Any] = {}
    for name, shape in item["params"].items():
        found = arrays[f"{method}/params/{name}"]
        if list(found.shape) != shape:
            raise StoreError(
                f"{path}: {method}/params/{name} is {found.shape}, expected {tuple(shape)}; "
                "run micro-rm train again"
            )
        *folders, leaf = name.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = found
    curves = {name: arrays[f"{method}/curves/{name}"] for name in item["curves"]}
    return Trained(_completed(params), item["settings"], curves)


def _completed(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the intercept that kernel routers of before 2026-12 did not have."""
    router = params.get("router")
    if not isinstance(router, dict) or "projection" not in router or "intercept" in router:
        return params
    intercept_SxK = np.zeros_like(router["kernel"][:, 0])
    return {**params, "router": {**router, "intercept": intercept_SxK}}


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a nested dictionary by their path, joined with slashes."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in paths}
