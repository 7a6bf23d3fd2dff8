"""Training, adaptation and evaluation as stages over a run directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..cache.pairs import read_pairs
from ..cache.reader import FeatureStore
from ..cache.schema import StoreError, commit_file, write_json
from ..configs.record import FILE as RECORD
from ..configs.schema import Config
from .checkpoint import load_models, save_models
from .evaluation.page import render_page
from .evaluation.predictions import write_predictions
from .evaluation.protocol import make_test_set, score, validation_accuracies
from .evaluation.report import build_report
from .evaluation.verdict import verdict, warnings
from .features import (
    Features,
    Partition,
    Scaler,
    adaptable_attributes,
    draw_budget,
    partition,
    stage1_rows,
)
from .methods import METHODS, choose_methods, load_method
from .methods.interface import Problem, Trained
from .training import Rows

NO_CONTEXTS = (
    "no pair has both an attribute and a context, so there is no wish to learn from; give "
    "data.contexts or a context column"
)


def open_features(config: Config) -> tuple[Features, Partition]:
    """The run's pair table and its rows by purpose.

    Raises ``StoreError`` if the table was made with other settings of the backbone.
    """
    _configure_jax()
    store = Path(config.store.dir)
    features = Features(FeatureStore(store), read_pairs(store, config.data.name))
    made, asked = features.table.settings["backbone"], asdict(config.backbone)
    differences = [
        f"backbone.{key}: the store has {made[key]!r}, this run has {asked[key]!r}"
        for key in asked
        if key not in ("name", "revision") and made.get(key) != asked[key]
    ]
    if differences:
        raise StoreError(
            f"{store}: pair table {config.data.name!r} was made otherwise "
            f"({'; '.join(differences)}); run micro-rm embed, or restore these settings"
        )
    return features, partition(features.table, config.train.validation_fraction)


def train(config: Config) -> dict[str, Trained]:
    """Fit every chosen method that needs no labelled rows; writes the model files."""
    features, parts = open_features(config)
    problem, scaler = _problem(config, features, parts)
    models: dict[str, Trained] = {}
    for method in choose_methods(config.methods):
        if method.stage == "train":
            models[method.name] = method.fit(problem, models)
    _save(Path(config.run.dir), models, scaler)
    return models


def adapt(config: Config) -> tuple[dict[str, Trained], dict[str, str]]:
    """Fit every chosen method that learns from labelled rows; adds them to the model files.

    Returns the new models and, by name, why a method was left out.
    """
    features, parts = open_features(config)
    run = Path(config.run.dir)
    models, scaler = load_models(run)
    chosen = [method for method in choose_methods(config.methods) if method.stage == "adapt"]
    if not chosen:
        return {}, {}
    if not adaptable_attributes(features.table, parts.train):
        return {}, {method.name: NO_CONTEXTS for method in chosen}
    for method in chosen:
        missing = [name for name in method.needs if name not in models]
        if missing:
            raise StoreError(
                f"{run}: method {method.name} needs {', '.join(missing)}, which is not trained; "
                "run micro-rm train with the same methods"
            )
    problem, _ = _problem(config, features, parts)
    problem = replace(problem, budget=_budget(config, features, parts, scaler))
    added: dict[str, Trained] = {}
    for method in chosen:
        added[method.name] = method.fit(problem, models | added)
    kept = {name: model for name, model in models.items() if load_method(name).stage == "train"}
    _save(run, kept | added, scaler)
    return added, {}


def evaluate(config: Config) -> dict[str, Any]:
    """Score every trained method on the test rows; writes predictions.parquet and report.json."""
    features, parts = open_features(config)
    run = Path(config.run.dir)
    models, scaler = load_models(run)
    test = make_test_set(features.table, parts.test)
    views = config.views
    rows = scaler.apply(*features.arrays(parts.test, views.adapt_head, views.adapt_router))
    scored = score(models, {name: load_method(name).rule for name in models}, rows)
    write_predictions(run / "predictions.parquet", features.table, test, scored)
    validation = None
    if parts.validation.size:
        seen = features.arrays(parts.validation, views.train_head, views.train_router)
        validation = validation_accuracies(
            models, scaler.apply(*seen), features.table, parts.validation, test
        )
    report = build_report(
        config.data.name, test, scored, config.evaluate, config.run.seed, validation
    )
    report["confidence"] = config.evaluate.confidence
    report["skipped"] = _skipped(config, features, models)
    report["caveats"] = config.caveats()
    report["verdict"] = verdict(report)
    report["warnings"] = warnings(report, features.table.account)
    write_json(run / "report.json", report)
    return report


def report(config: Config) -> dict[str, Any]:
    """Complete report.json with the run record and write report.html from it."""
    run = Path(config.run.dir)
    path = run / "report.json"
    if not path.is_file():
        raise StoreError(f"{path}: nothing to report yet; run micro-rm evaluate")
    content = json.loads(path.read_text("utf-8"))
    content["record"] = json.loads((run / RECORD).read_text("utf-8"))
    write_json(path, content)
    models, _ = load_models(run)
    page = render_page(
        content,
        summaries={name: load_method(name).summary for name in METHODS},
        curves={name: model.curves for name, model in models.items()},
    )
    _write_text(run / "report.html", page)
    return content


def _save(run: Path, models: Mapping[str, Trained], scaler: Scaler) -> None:
    run.mkdir(parents=True, exist_ok=True)
    save_models(run, models, scaler)
    _write_metrics(run, models)


def _skipped(config: Config, features: Features, models: Mapping[str, Trained]) -> dict[str, str]:
    """Why each chosen method that has no model has none."""
    parts = partition(features.table, config.train.validation_fraction)
    has_contexts = bool(adaptable_attributes(features.table, parts.train))
    return {
        method.name: "it is not trained yet; run micro-rm train and micro-rm adapt"
        if has_contexts or method.stage == "train"
        else NO_CONTEXTS
        for method in choose_methods(config.methods)
        if method.name not in models
    }


def _write_metrics(run: Path, models: Mapping[str, Trained]) -> None:
    """``metrics.jsonl``: one line per method and epoch."""
    lines = []
    for name, model in models.items():
        epochs = max((len(curve) for curve in model.curves.values()), default=0)
        for epoch in range(epochs):
            values = {kind: _number(curve[epoch]) for kind, curve in model.curves.items()}
            lines.append({"method": name, "epoch": epoch + 1, **values})
    _write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    commit_file(temporary, path)


def _configure_jax() -> None:
    """Full float32 products (GPUs would take TF32), and no claim on memory that torch may hold."""
    jax.config.update("jax_default_matmul_precision", "float32")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _problem(config: Config, features: Features, parts: Partition) -> tuple[Problem, Scaler]:
    train, validation, scaler = stage1_rows(features, parts, config.views, config.train.features)
    problem = Problem(
        width=features.store.width,
        train=train,
        validation=validation,
        train_config=config.train,
        adapt_config=config.adapt,
        key=jax.random.key(config.run.seed),
    )
    return problem, scaler


def _budget(config: Config, features: Features, parts: Partition, scaler: Scaler) -> Rows:
    rows_SxN = draw_budget(features.table, parts.train, config.adapt, config.run.seed)
    views = config.views
    flat = scaler.apply(
        *features.arrays(rows_SxN.reshape(-1), views.adapt_head, views.adapt_router)
    )
    shape = (*rows_SxN.shape, features.store.width)
    return Rows(flat.delta_NxD.reshape(shape), flat.router_input_NxD.reshape(shape))


def _number(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
