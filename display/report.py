"""Write report.html and sweep.html from the numbers in a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..cache.schema import StoreError
from ..common.files import write_json, write_text
from ..common.redact import redact_all
from ..configs.schema import Config
from ..heads.checkpoint import load_models
from ..heads.evaluation.compare import comparable, compare
from ..heads.evaluation.prompts import RouteFunction, route_prompts
from ..heads.studies.run import read_studies
from ..heads.sweeps.summary import summarise
from ..heads.sweeps.table import locked, read_sweep
from ..run_dir.files import RECORD
from ..run_dir.report_json import with_current_names
from .page import render_page, render_sweep_page

SWEEP_PAGE = "sweep.html"


def write_report(config: Config, route: RouteFunction) -> dict[str, Any]:
    """Complete report.json with record, studies, comparisons and prompts; write report.html.

    Args:
        config: Names the run directory and the contents of the report.
        route: Computes the router weights of the prompts in ``config.report``; called only if
            the report has none of these prompts yet.

    Returns:
        The content of report.json.

    Raises:
        StoreError: The run has no report yet, or a file of it cannot be read.
        CompareError: A published table in the configuration cannot be compared.
    """
    run = Path(config.run.dir)
    path = run / "report.json"
    if not path.is_file():
        raise StoreError(f"{path}: nothing to report yet; run micro-rm evaluate")
    content = with_current_names(_read_json(path, "micro-rm evaluate"))
    if "gallery" not in content:  # written by micro-rm before 0.2
        raise StoreError(f"{path}: of an older version of micro-rm; run micro-rm evaluate again")
    record = _read_json(run / RECORD, "micro-rm train")
    content["record"] = {k: v for k, v in record.items() if k not in ("files", "checksum")}
    evaluated = content["record"].get("stages", {}).get("evaluate", {})
    content["studies"] = read_studies(run, evaluated.get("inputs"))
    content["published"] = []
    if config.report.compare == "paper":
        tables = config.report.tables or comparable(content)
        content["published"] = [compare(content, table) for table in tables]
    content["prompts"] = route_prompts(content.get("prompts"), config.report.prompts, route)
    write_json(path, redact_all(content))
    models, _ = load_models(run)
    page = render_page(
        content,
        curves={name: model.curves for name, model in models.items()},
    )
    write_text(run / "report.html", page)
    return content


def _read_json(path: Path, command: str) -> dict[str, Any]:
    """Read a JSON object of a run; the ``StoreError`` names the command that rewrites it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); run {command} again") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: expected a JSON object; run {command} again")
    return content


def write_sweep_page(config: Config) -> dict[str, Any]:
    """Write sweep.html from sweep.parquet, which must exist; returns the summary it shows."""
    run = Path(config.run.dir)
    sweep = read_sweep(run)
    assert sweep is not None
    summary = summarise(sweep, config.evaluate.confidence)
    page = render_sweep_page(
        summary, config.data.name, config.caveats(), config.evaluate.confidence
    )
    with locked(run):
        write_text(run / SWEEP_PAGE, page)
    return summary
