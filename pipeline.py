"""The pipeline, one function per stage, and the command ``micro-rm``.

``check -> embed -> train -> adapt -> evaluate -> report``. Heavy imports are inside the functions,
so that help, errors and planning are instant, and so that embedding never loads JAX and training
never loads torch.

Further commands are in ``commands/``: ``embedding`` (check, embed, retry, extend), ``reporting``
(report, compare), ``sweeping`` (sweep), ``upkeep`` (maintenance of stores) and ``doctor`` (the
machine).
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # python pipeline.py: register this checkout as the package micro_rm

    def _run_checkout() -> None:
        import importlib.util

        root = Path(__file__).resolve().parent
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != root]
        spec = importlib.util.spec_from_file_location(
            "micro_rm", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["micro_rm"] = package
        spec.loader.exec_module(package)
        sys.exit(importlib.import_module("micro_rm.pipeline").main())

    _run_checkout()

from micro_rm.api.learning import require_whole_job, run_stage, stages_to_do
from micro_rm.commands.doctor.command import doctor
from micro_rm.commands.embedding import check, embed, extend, retry
from micro_rm.commands.reporting import compare, report
from micro_rm.commands.sweeping import sweep
from micro_rm.commands.upkeep import clean, inspect, pull, push, verify
from micro_rm.common.console import Say, make_printer, printable, spinner
from micro_rm.common.cores import limit_threads
from micro_rm.common.errors import UserError
from micro_rm.common.redact import redact_all
from micro_rm.configs.schema import SIMULATOR_SOURCE, Config
from micro_rm.run_dir import freshness
from micro_rm.run_dir.record import RunRecord, recording_files
from micro_rm.run_dir.store_settings import kept_dtype, resolve_from_store

if TYPE_CHECKING:
    from micro_rm.configs.command_line import Options

Result = dict[str, Any]


def train(config: Config, say: Say, record: RunRecord) -> Result:
    """Stage 1: fit every selected method that needs no labelled rows."""
    with spinner("train    heads and routers from plain pairs"):
        notes = run_stage("train", config, record)
    say(f"train    {', '.join(notes['trained'])}")
    _say_skipped("train", notes, say)
    return notes


def adapt(config: Config, say: Say, record: RunRecord) -> Result:
    """Stage 2: fit every selected method that adapts to labelled rows."""
    with spinner("adapt    learning from labelled rows"):
        notes = run_stage("adapt", config, record)
    if notes["adapted"]:
        source = "" if config.adapt.source == "train" else " of the test rows, not scored then"
        per = f"rows per {config.adapt.group}{source}"
        budget = f"{config.adapt.draws} draws of {config.adapt.budget} {per}"
        say(f"adapt    {', '.join(notes['adapted'])}: {budget}")
    _say_skipped("adapt", notes, say)
    return notes


def evaluate(config: Config, say: Say, record: RunRecord) -> Result:
    """Score the held-out rows and write report.json and predictions.parquet."""
    with spinner("evaluate scoring the held-out rows"):
        notes = run_stage("evaluate", config, record)
    say(f"evaluate {notes['rows']:,} rows over {notes['prompts']:,} prompts")
    return notes


def _say_skipped(stage: str, notes: Result, say: Say) -> None:
    for name, reason in notes["skipped"].items():
        say(f"{stage:<8} {name} is left out: {reason}")


def export(config: Config, say: Say) -> Result:
    """Export a trained run as a model that other tools load."""
    from micro_rm.serve.export.stage import export_run

    return export_run(Path(config.run.dir), config.export, device=config.embed.device, say=say)


LEARNING_STAGES = {"train": train, "adapt": adapt, "evaluate": evaluate}


def run(config: Config, say: Say, *, dry_run: bool = False) -> Result:
    """Run all stages in order, without those that are done for the same inputs."""
    require_whole_job(config)
    asked, config = config, resolve_from_store(config)
    record = RunRecord(Path(config.run.dir), config)
    request = freshness.table_fingerprint(config)
    embedded = freshness.is_embedded(config, request)
    if dry_run:
        todo = stages_to_do(config, record, freshness.with_missing_pairs(config, request))
        say(
            f"run      embed: {'done' if embedded else 'to do'}; to do: {', '.join(todo) or 'none'}"
        )
        plan = {} if embedded else embed(asked, say, dry_run=True)
        return plan | {"embedded": embedded, "stages": todo}
    for caveat in config.caveats():
        say(f"note     {caveat}")
    if config.data.source == SIMULATOR_SOURCE:
        say("embed    nothing: the simulator draws vectors, there is no text")
    elif embedded:
        found = "; ".join(filter(None, (config.store.dir, kept_dtype(asked, config))))
        say(f"embed    done before for the same inputs ({found})")
    else:
        with record.stage("embed", request) as notes:
            notes |= embed(asked, say, summary=True)
        config = resolve_from_store(config)
        record = RunRecord(Path(config.run.dir), config)
        request = freshness.table_fingerprint(config)
    todo = stages_to_do(config, record, freshness.with_missing_pairs(config, request))
    for name, stage in LEARNING_STAGES.items():
        if name in todo:
            stage(config, say, record)
        else:
            say(f"{name:<8} done before for the same inputs")
    return report(config, say)


def study(config: Config, say: Say) -> Result:
    """Run the pipeline, then the studies, and write a report with both."""
    from micro_rm.display.studies import study_tables
    from micro_rm.heads.stages import open_run_data
    from micro_rm.heads.studies.run import run_studies

    run(config, say)
    config = resolve_from_store(config)
    say("")
    run_dir = Path(config.run.dir)
    with recording_files(run_dir):
        done = run_studies(
            open_run_data(config),
            config.study.names,
            run_dir,
            RunRecord(run_dir, config).content["stages"]["evaluate"]["inputs"],
            lambda name: say(f"study    {name}"),
        )
    say("")
    for name in done:
        for part in study_tables(done[name]):
            say(part)
    report(config, lambda _: None)
    say(f"report   {run_dir / 'report.html'}")
    return {"studies": done}


def score(config: Config, say: Say, path: str | None) -> Result:
    """Score raw text from the command line, or from a file of JSON lines as JSON lines."""
    from micro_rm import load
    from micro_rm.serve.score import ranking_table, score_lines, score_question

    model = load(config.run.dir, device=config.embed.device)
    if path is None:
        result = score_question(model, config.score)
        say(ranking_table(result, model.head_names))
        return result
    failed = 0
    with nullcontext(sys.stdin) if path == "-" else open(path, encoding="utf-8") as lines:
        for result in score_lines(model, lines, config.score):
            failed += "error" in result
            print(json.dumps(result), flush=True)
    problems = [f"{failed} lines could not be scored; each says why"] if failed else []
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return {"problems": problems}


def serve(config: Config, say: Say) -> Result:
    """Serve scores over HTTP until interrupted."""
    from micro_rm import load
    from micro_rm.serve.server import serve as answer

    model = load(config.run.dir, device=config.embed.device, cached_texts=config.serve.cached_texts)
    answer(model, config.serve, say)
    return {"stopped": True}


def theory(config: Config, say: Say) -> Result:
    """Check Theorem 3.2 numerically and write theory.json and theory.html."""
    from micro_rm.common.files import write_json
    from micro_rm.display.theory import theory_table
    from micro_rm.display.theory_page import render_theory_page
    from micro_rm.heads.theory.experiment import run_theory

    directory = Path(config.theory.dir)
    directory.mkdir(parents=True, exist_ok=True)
    result = run_theory(config.theory)
    write_json(directory / "theory.json", result)
    (directory / "theory.html").write_text(render_theory_page(result), "utf-8")
    for part in theory_table(result):
        say(part)
    say(f"\npage     {directory / 'theory.html'}\nnumbers  {directory / 'theory.json'}")
    return {"theory": result}


def execute(options: Options, config: Config, say: Say) -> Result:
    """Run one command."""
    name = options.command
    if name in ("run", "demo"):
        return run(config, say, dry_run=options.dry_run)
    if name == "score":
        return score(config, say, options.path)
    if name == "compare":
        return compare(options.runs, config, say)
    if name == "sweep":
        return sweep(config, say, dry_run=options.dry_run)
    if options.dry_run and name != "embed":
        say(f"{name:<8} nothing to plan: this command reads or takes seconds; --dry_run ends here")
        return {"command": name}
    if name == "embed":
        return embed(config, say, dry_run=options.dry_run)
    if name in ("gc", "delete", "copy"):
        return clean(name, config, say, quiet=options.json)
    if name in LEARNING_STAGES:
        config = resolve_from_store(config)
        return LEARNING_STAGES[name](config, say, RunRecord(Path(config.run.dir), config))
    others = {
        "check": check,
        "export": export,
        "retry": retry,
        "doctor": doctor,
        "extend": extend,
        "inspect": inspect,
        "verify": verify,
        "push": push,
        "serve": serve,
        "pull": pull,
        "report": report,
        "study": study,
        "theory": theory,
    }
    return others[name](config, say)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``micro-rm``.

    Returns the exit status: 0, 1 for problems (refused rows, failed checks), 2 for an error and 130
    if interrupted.
    """
    from micro_rm.configs.command_line import parse  # the stages run without jsonargparse

    signal.signal(signal.SIGTERM, _stop)
    limit_threads()
    try:
        options, config = parse(sys.argv[1:] if argv is None else argv)
        config = _with_path(options, config)
        say = make_printer(quiet=options.json)
        result = execute(options, config, say)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print(f"micro-rm: {printable(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(redact_all(result), indent=2, allow_nan=False))
    return 1 if result.get("problems") or result.get("refused") else 0


def _with_path(options: Options, config: Config) -> Config:
    """The configuration with the positional argument in place of the setting that it overrides."""
    if options.path is None:
        return config
    if options.command == "score":
        return config
    if options.command == "check":
        return replace(config, data=replace(config.data, train=options.path))
    if options.command == "retry":
        return replace(config, data=replace(config.data, corrections=options.path))
    return replace(config, store=replace(config.store, dir=options.path))


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
