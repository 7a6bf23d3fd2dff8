"""Summary of a run directory as lines of text, for ``micro-rm inspect``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..cache.draw import bar, padded
from ..cache.schema import StoreError
from ..heads.evaluation.rows import labelled_rows
from ..run_dir.files import RECORD


def describe_run(run: Path) -> dict[str, Any]:
    """Read the record and the report of a run directory.

    Returns:
        ``{"run", "record", "report", "page"}``; ``report`` and ``page`` are None until written.

    Raises:
        StoreError: The record or the report is damaged.
    """
    report = run / "report.json"
    return {
        "run": str(run),
        "record": _read(run / RECORD, ("config", "seed", "stages", "versions")),
        "report": _read(report, ("methods", "test", "verdict", "warnings"))
        if report.is_file()
        else None,
        "page": str(run / "report.html") if (run / "report.html").is_file() else None,
    }


def draw_run(description: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text for the result of ``describe_run``: stages, a bar per method, the verdict."""
    record, report = description["record"], description["report"]
    config, stages = record["config"], record["stages"]
    yield f"run      {description['run']}"
    yield (
        f"data     {config['data']['name']}, vectors of {config['backbone']['name']}, seed "
        f"{record['seed']}, micro-rm {record['versions']['micro-rm']}"
    )
    done = [f"{name} {stage['seconds']:.0f} s" for name, stage in stages.items()]
    yield f"stages   {', '.join(done) or 'none finished'}"
    if "running" in record:
        yield f"note     {record['running']} was begun and has not finished"
    if report is None:
        missing = next((n for n in ("train", "adapt", "evaluate") if n not in stages), "evaluate")
        yield f"report   none yet; next is micro-rm {missing}"
        return
    test = report["test"]
    yield f"scored   {test['rows']:,} rows over {test['prompts']:,} prompts"
    yield f"page     {description['page'] or 'none yet; next is micro-rm report'}"
    yield ""
    methods = report["methods"]
    for name, label in labelled_rows(methods):
        value = methods[name]["macro"]["accuracy"]
        yield f"{padded(label)}  {value:.3f}  {bar(value - 0.5, 0.5)}".rstrip()
    yield f"{'':<31}  bars from 0.5, which is chance, to 1"
    yield ""
    yield from report["verdict"]
    yield from (f"warning  {warning}" for warning in report["warnings"])


def _read(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON object that has the needed keys."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); run micro-rm run again") from error
    if not isinstance(content, dict) or not set(needed) <= set(content):
        raise StoreError(
            f"{path}: expected a JSON object with {', '.join(needed)}; run micro-rm run again"
        )
    return content
