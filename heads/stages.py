"""Training, adaptation and evaluation as stages over a run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.files import require_file
from ..cache.native_head import FILE as HEAD
from ..cache.native_head import read_native_head
from ..cache.pairs import read_pairs
from ..cache.reader import FeatureStore
from ..cache.removal import used_rows
from ..cache.schema import StoreError
from ..common.files import write_json, write_text
from ..common.redact import redact_all
from ..configs.resolve import SIMULATOR_FACTS, resolve, resolve_backbone
from ..configs.schema import SIMULATOR_SOURCE, BackboneConfig, Config
from .checkpoint import load_failures, load_seeds, save_seeds
from .evaluation.answers import answers
from .evaluation.diagnostics import divergence_warnings, flags
from .evaluation.gallery import gallery
from .evaluation.predictions import write_predictions
from .evaluation.protocol import TestSet
from .evaluation.report import best_head_summary, build_report
from .evaluation.reward_bench import benchmark, left_out_warnings, missing_subset_warnings
from .evaluation.verdict import verdict, warnings
from .features import Features
from .fitting import Models, fit_methods, of_seed, score_models
from .jax_settings import configure_jax
from .methods import choose_methods, load_method, ranked_methods
from .methods.interface import Method, Trained
from .run_data import RunData
from .simulation import simulate


def open_run_data(config: Config) -> RunData:
    """The run's pair table and vectors, ready for methods.

    Raises ``StoreError`` if the table was made with other settings of the backbone.
    """
    configure_jax(config.train.compile)
    if config.data.source == SIMULATOR_SOURCE:
        config = resolve(config, SIMULATOR_FACTS)
        simulation = simulate(config.data.simulator, config.data.name)
        return RunData(config, Features(simulation.store, simulation.table))
    store = Path(config.store.dir)
    table = read_pairs(store, config.data.name)
    reader = FeatureStore(store)
    identity = reader.manifest.identity
    config = resolve(config, identity)
    # Older tables name a read-out as it was asked for, which may be auto.
    made = asdict(resolve_backbone(BackboneConfig(**table.settings["backbone"]), identity))
    asked = asdict(config.backbone)
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
    reader.require_layout(table.layout, table.name)
    if config.store.checksum:
        for name in (f"pairs/{table.name}.h5", HEAD):
            if (store / name).exists() or name in reader.manifest.files:
                require_file(store, reader.manifest, name)
        reader.require_sound(used_rows({table.name: table}, len(reader)).nonzero()[0])
    return RunData(config, Features(reader, table, read_native_head(store)))


def train(config: Config) -> tuple[list[str], dict[str, str]]:
    """Fit every chosen method that needs no labelled rows; writes the model files.

    Returns the methods that were fitted and, by name, why a method was left out.
    """
    run_data = open_run_data(config)
    chosen, skipped = _possible(config, run_data, "train")
    models, failed = fit_methods(chosen, run_data.problems(adapt=False), {})
    _save(Path(config.run.dir), models, run_data, failed)
    return list(models), skipped | failed


def adapt(config: Config) -> tuple[list[str], dict[str, str]]:
    """Fit every chosen method that learns from labelled rows; adds them to the model files.

    Returns the methods that were fitted and, by name, why a method was left out.
    """
    run = Path(config.run.dir)
    run_data = open_run_data(config)
    models, scaler = load_seeds(run)
    failed = load_failures(run)
    run_data = replace(run_data, saved_scaler=scaler)
    chosen, skipped = _possible(config, run_data, "adapt")
    for method in chosen:
        missing = [name for name in method.after if name not in {**models, **failed}]
        if missing:
            raise StoreError(
                f"{run}: method {method.name} needs {', '.join(missing)}, which is not trained; "
                "run micro-rm train with the same methods"
            )
    if not chosen:
        return [], skipped
    problems = run_data.problems(adapt=True)
    added, lost = fit_methods(chosen, problems, models, failed)
    added = {name: _with_groups(name, seeds, run_data) for name, seeds in added.items()}
    before = [name for name in [*models, *failed] if load_method(name).stage == "train"]
    kept = {name: models[name] for name in before if name in models}
    failed = {name: failed[name] for name in before if name in failed}
    _save(run, kept | added, run_data, failed | lost)
    return list(added), skipped | lost


def evaluate(config: Config) -> dict[str, Any]:
    """Score every trained method on the test rows; writes predictions.parquet and report.json."""
    run = Path(config.run.dir)
    run_data = open_run_data(config)
    models, scaler = load_seeds(run)
    run_data = replace(run_data, saved_scaler=scaler)
    table = run_data.features.table
    test = run_data.test_set
    scored = score_models(run_data, models, test)
    write_predictions(run / "predictions.parquet", table, test, scored)
    methods = {name: load_method(name) for name in models}
    # A best single head is chosen by the attribute of each row.
    given = {name: methods[name].given if name in methods else "attribute" for name in scored}
    report = build_report(config.data.name, test, scored, given, config.evaluate)
    for name, entry in report["methods"].items():
        entry["summary"] = methods[name].summary if name in methods else best_head_summary(name)
    report["confidence"] = config.evaluate.confidence
    report["budget"] = _budget(run_data, test, models)
    report["skipped"] = _skipped(config, run_data, models, load_failures(run))
    report["caveats"] = config.caveats()
    report["benchmark"] = benchmark(
        test, table.source_row[test.table_rows], scored, config.evaluate
    )
    report["account"] = dict(table.account)
    first = {name: seeds[0] for name, seeds in scored.items()}
    report["gallery"] = gallery(table, test, first, [method.name for method in ranked_methods()])
    report["prompts"] = None  # the report stage asks for them
    report["answers"] = answers(report)
    report["verdict"] = verdict(report)
    report["warnings"] = [
        *warnings(report, table.account),
        *missing_subset_warnings(test.attributes),
        *left_out_warnings(report["benchmark"]),
        *divergence_warnings(of_seed(models, 0)),
        *flags(
            report["heads"],
            owners=[name for name, method in methods.items() if method.own_heads],
            routers=[name for name, method in methods.items() if method.routes],
        ),
    ]
    write_json(run / "report.json", redact_all(report))
    return report


def _with_groups(name: str, seeds: Sequence[Trained], run_data: RunData) -> list[Trained]:
    """Models with the names of the groups that their weights are numbered by, if they are."""
    if load_method(name).given != "group":
        return list(seeds)
    groups = list(run_data.groups)
    return [replace(one, settings={**one.settings, "groups": groups}) for one in seeds]


def _possible(config: Config, run_data: RunData, stage: str) -> tuple[list[Method], dict[str, str]]:
    """The chosen methods of a stage that the data can serve, and why the others cannot."""
    chosen, skipped = [], {}
    for method in choose_methods(config.methods):
        if method.stage == stage:
            reason = run_data.lacks(method)
            if reason is None:
                chosen.append(method)
            else:
                skipped[method.name] = reason
    return chosen, skipped


def _budget(run_data: RunData, test: TestSet, models: Models) -> dict[str, Any]:
    """What the labelled rows were, as the report says it."""
    adapt = run_data.config.adapt
    adapting = any(load_method(name).stage == "adapt" for name in models)
    return {
        "group": adapt.group,
        "source": adapt.source,
        "rows_per_group": adapt.budget,
        "groups": len(run_data.groups),
        "draws": adapt.draws,
        "apart": list(run_data.scored_rows(test)[1]) if adapting else [],
    }


def _save(run: Path, models: Models, run_data: RunData, failed: Mapping[str, str]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    save_seeds(run, models, run_data.scaler, failed)
    _write_metrics(run, of_seed(models, 0))


def _skipped(
    config: Config, run_data: RunData, models: Models, failed: Mapping[str, str]
) -> dict[str, str]:
    """Why each chosen method that has no model has none."""
    return {
        method.name: run_data.lacks(method)
        or failed.get(method.name)
        or "it is not trained yet; run micro-rm train and micro-rm adapt"
        for method in choose_methods(config.methods)
        if method.name not in models
    }


def _write_metrics(run: Path, models: Mapping[str, Trained]) -> None:
    """``metrics.jsonl``: one line per method and epoch, of the first seed."""
    lines = []
    for name, model in models.items():
        epochs = max((len(curve) for curve in model.curves.values()), default=0)
        for epoch in range(epochs):
            values = {
                kind: _number(curve[epoch])
                for kind, curve in model.curves.items()
                if epoch < len(curve)
            }
            lines.append({"method": name, "epoch": epoch + 1, **values})
    write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _number(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
