"""``micro-rm report``: write and print the report of a run or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..common.console import Say, say_all, spinner
from ..common.files import write_json
from ..common.imports import permanent_imports
from ..common.redact import redact_all
from ..configs.report import ExamplePrompt
from ..configs.schema import Config
from ..run_dir.record import recording_files

Result = dict[str, Any]


def report(config: Config, say: Say) -> Result:
    """Add the run record to report.json, write report.html and print the tables.

    If the run directory has a sweep, its report is written too.
    """
    from ..display.report import write_report
    from ..heads.sweeps.table import read_sweep

    run = Path(config.run.dir)
    swept = {} if read_sweep(run) is None else {"sweep": report_sweep(config, say)}
    if swept and not (run / "report.json").is_file():
        return swept
    from ..display.published import comparison_tables
    from ..display.tables import (
        attribute_table,
        benchmark_table,
        comparison_table,
        headline_methods,
        method_table,
    )

    with recording_files(run):
        content = write_report(config, partial(_route, config))
    say("")
    say(method_table(content))
    say("")
    say(attribute_table(content, headline_methods(content)))
    say("")
    if content["comparisons"]:
        say(comparison_table(content))
        say("")
    for sentence in (*content["verdict"], *content["warnings"]):
        say(sentence)
    if content["benchmark"] is not None and content["benchmark"]["methods"]:
        say("")
        say(benchmark_table(content["benchmark"]))
    for comparison in content["published"]:
        say("")
        say_all(say, comparison_tables(comparison))
    for name, reason in content["skipped"].items():
        say(f"{name} was left out: {reason}")
    say(f"\nreport   {run / 'report.html'}\nnumbers  {run / 'report.json'}")
    say(f"per row  {run / 'predictions.parquet'}\nrecord   {run / 'record.json'}")
    return {"report": content} | swept


def _route(config: Config, prompts: Sequence[ExamplePrompt]) -> list[dict[str, Any]]:
    """Router weights of example prompts, embedded with the backbone of the run."""
    with permanent_imports():
        from ..serve.example_prompts import route_prompts

    with spinner("report   routing the example prompts"):
        return route_prompts(config.run.dir, prompts, device=config.embed.device)


def compare(runs: Sequence[str], config: Config, say: Say) -> Result:
    """Compare runs, print the tables, and write comparison.json and comparison.png."""
    from ..api.comparison import compare as compared
    from ..display.comparison import comparison_parts

    settings = config.compare
    comparison = compared(
        *runs,
        methods=settings.methods,
        against=settings.against or config.evaluate.against,
        confidence=config.evaluate.confidence,
    )
    say_all(say, comparison_parts(comparison.content))
    directory = Path(settings.dir)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "comparison.json", redact_all(comparison.content))
    comparison.plot().savefig(directory / "comparison.png", dpi=150)
    say(f"\nnumbers  {directory / 'comparison.json'}\nplot     {directory / 'comparison.png'}")
    return {"comparison": comparison.content}


def report_sweep(config: Config, say: Say) -> Result:
    """Write sweep.html from sweep.parquet and print its tables."""
    from ..display.report import SWEEP_PAGE, write_sweep_page
    from ..display.sweeps import sweep_tables
    from ..heads.sweeps.table import FILE

    summary = write_sweep_page(config)
    say("")
    for part in sweep_tables(summary):
        say(part)
    directory = Path(config.run.dir)
    say(f"page     {directory / SWEEP_PAGE}\ntable    {directory / FILE}")
    return summary
