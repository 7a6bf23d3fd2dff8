"""The map: one function per stage, and the command line.

``check -> embed -> train -> adapt -> evaluate -> report``. Heavy imports live inside the stages, so
that help, errors and planning stay instant, and so that embedding never loads JAX and training
never loads torch.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
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

from micro_rm import UserError
from micro_rm.configs.console import Say, make_printer, printable, working
from micro_rm.configs.record import RunRecord, code_fingerprint, fingerprint, listing_files
from micro_rm.configs.run_files import RECORD
from micro_rm.configs.schema import SIMULATOR_SOURCE, Config, require
from micro_rm.configs.secrets import redact_all

if TYPE_CHECKING:
    from micro_rm.configs.command_line import Options
    from micro_rm.configs.report import ExamplePrompt
    from micro_rm.embed.sources import PairSource

VERIFY_SAMPLE = 32
Result = dict[str, Any]


def check(config: Config, say: Say) -> Result:
    """Validate the data set and show what is in it."""
    from micro_rm.embed.sources import open_pairs

    return _show_summary(config, open_pairs(config.data), say)


def _show_summary(config: Config, source: PairSource, say: Say) -> Result:
    from micro_rm.embed.display import summary_views
    from micro_rm.embed.sources.check import summarise

    summary = summarise(source)
    for part in summary_views(config.data.train or config.data.source, summary):
        say(part)
    if config.report.compare == "paper":
        from micro_rm.heads.evaluation.compare import COUNTS, compare
        from micro_rm.heads.evaluation.compare_display import compare_views

        if config.report.tables and COUNTS not in config.report.tables:
            return summary
        summary["published"] = [compare({"account": summary}, COUNTS)]
        _say_all(say, compare_views(summary["published"][0]))
    return summary


def embed(
    config: Config, say: Say, *, dry_run: bool = False, summary: bool = False, retry: bool = False
) -> Result:
    """Embed what the store lacks and write the data set's pair table.

    ``retry`` includes what the backbone gave NaN or infinity for before.
    """
    from rich.console import Console

    from micro_rm.embed import display
    from micro_rm.embed.downloads import to_download
    from micro_rm.embed.request import input_fingerprint
    from micro_rm.embed.sources import open_pairs
    from micro_rm.embed.stage import preview_job, run_job

    request = input_fingerprint(config)
    source = open_pairs(config.data)
    if dry_run:
        downloads = to_download(config.data, config.backbone)
        _say_all(say, [f"download {item}" for item in downloads])
        if downloads:
            say("embed    sequences, tokens and minutes are known once these are here")
            return {"downloads": downloads}
    if summary:
        _show_summary(config, source, say)
    if dry_run:
        preview, seconds, encoder = preview_job(config, source)
        _say_all(say, display.preview_lines(preview, encoder))
        say(f"embed    {preview.bytes:,} bytes, about {display.duration(seconds)}")
        return asdict(preview) | {"estimated_seconds": round(seconds, 3)}
    with display.embedding_progress(Console(stderr=True)) as progress:
        outcome = run_job(
            config,
            source,
            request,
            planned=lambda preview, encoder: _say_all(say, display.preview_lines(preview, encoder)),
            progress=progress,
            notice=lambda text: say(f"embed    {text}"),
            retry=retry,
        )
    _say_all(say, display.outcome_lines(outcome))
    return display.outcome_facts(outcome)


def _say_all(say: Say, lines: Sequence[object]) -> None:
    for line in lines:
        say(line)


def retry(config: Config, say: Say) -> Result:
    """Embed the rows that were corrected in a copy of the quarantine, and what failed before."""
    from micro_rm.embed.quarantine import quarantine_path

    result = embed(config, say, retry=True)
    account, fixes = result["account"], config.data.corrections
    if account is not None:
        place = quarantine_path(Path(config.store.dir), config.data.name)
        say(
            f"retry    {account['corrected_rows']:,} rows were read as corrected; "
            f"{account['refused']:,} rows or pairs are still refused: {place}"
        )
    if fixes is not None:
        say(f"retry    from now on give --data.corrections {fixes}, also to micro-rm run")
    return result


def inspect(config: Config, say: Say) -> Result:
    """Draw a store or a run; ``--json`` has every detail."""
    from micro_rm.cache.draw import draw_store
    from micro_rm.cache.inspect import describe_store
    from micro_rm.heads.evaluation.run_view import describe_run, draw_run

    path = Path(config.store.dir)
    if _is_run(path):
        description = describe_run(path)
        _say_all(say, list(draw_run(description)))
    else:
        description = describe_store(path)
        _say_all(say, list(draw_store(description)))
    return description


def _is_run(path: Path) -> bool:
    return (path / RECORD).is_file() and not (path / "manifest.json").is_file()


def extend(config: Config, say: Say) -> Result:
    """Embed new data into a store that exists."""
    from micro_rm.cache.manifest import read_manifest

    before = read_manifest(Path(config.store.dir)).rows
    result = embed(config, say)
    after = read_manifest(Path(config.store.dir)).rows
    say(f"extend   {after - before:,} vectors added to {before:,}")
    return result | {"vectors_before": before, "vectors": after}


def verify(config: Config, say: Say) -> Result:
    """Check every byte of a store or run, then embed a sample of every pair table again."""
    from micro_rm.cache.pairs import read_pairs, table_names
    from micro_rm.cache.reader import FeatureStore
    from micro_rm.cache.upkeep import finish_interrupted, rebuild
    from micro_rm.cache.verify import verify_store
    from micro_rm.embed.recheck import recheck

    path = Path(config.store.dir)
    if _is_run(path):
        return _verify_run(path, say)
    rebuilt = rebuild(path, say) if config.upkeep.rebuild else {}
    finish_interrupted(path)
    verdict = verify_store(path)
    say(
        f"verify   {verdict.shards} shards, {verdict.vectors:,} vectors, {verdict.bytes:,} bytes, "
        f"{verdict.files} other files, {verdict.pair_tables} pair tables: "
        f"{len(verdict.problems)} problems"
    )
    for note in verdict.notes:
        say(f"note     {note}")
    result: Result = asdict(verdict) | {"recheck": {}} | ({"rebuilt": rebuilt} if rebuilt else {})
    if not verdict.problems:
        store = FeatureStore(path)
        for name in table_names(path):
            found = recheck(
                store,
                read_pairs(path, name),
                size=VERIFY_SAMPLE,
                seed=config.run.seed,
                settings=config.embed,
            )
            head = "" if found.head_error is None else f", reward head {found.head_error:.1e}"
            say(
                f"verify   {name}: {found.sequences} sequences embedded again, largest relative "
                f"error {found.largest_error:.1e}{head}"
            )
            result["recheck"][name] = asdict(found)
            result["problems"] += [f"{name}: {problem}" for problem in found.problems]
    for problem in result["problems"]:
        say(f"problem  {problem}")
    return result


def _verify_run(run: Path, say: Say) -> Result:
    """Check every byte of a run directory against its record."""
    from micro_rm.configs.run_files import verify_run

    files, problems, notes = verify_run(run)
    say(f"verify   {files} files of a run: {len(problems)} problems")
    for note in notes:
        say(f"note     {note}")
    for problem in problems:
        say(f"problem  {problem}")
    return {"files": files, "problems": problems, "notes": notes}


def upkeep(name: str, config: Config, say: Say, *, quiet: bool) -> Result:
    """gc, delete or copy."""
    from micro_rm.cache import upkeep

    def ask(question: str) -> bool:
        if config.upkeep.yes or quiet or not sys.stdin.isatty():
            return config.upkeep.yes
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    store, wanted = Path(config.store.dir), config.upkeep
    if name == "gc":
        return upkeep.collect(store, say, ask)
    if name == "delete":
        return upkeep.delete(store, wanted.users, wanted.pairs, say, ask)
    return upkeep.copy(store, wanted.to, say)


def doctor(config: Config, say: Say) -> Result:
    """Check what this machine has for the work; what fails is a problem."""
    from micro_rm.doctor import FAIL, OK
    from micro_rm.doctor_probes import examine

    checks = examine(Path(config.store.dir))
    for check in checks:
        say(f"{check.level:<8} {check.name}: {check.found}")
        if check.level != OK:
            say(f"         {check.remedy}")
    return {
        "checks": [asdict(check) for check in checks],
        "problems": [f"{one.name}: {one.found}" for one in checks if one.level == FAIL],
    }


def push(config: Config, say: Say) -> Result:
    """Verify the store and upload it to the hub."""
    from micro_rm.embed.share import push_store

    address = push_store(Path(config.store.dir), config.share)
    say(f"push     {config.store.dir} verified and uploaded: {address}")
    return {"commit": address}


def pull(config: Config, say: Say) -> Result:
    """Download a store from the hub and verify it."""
    from micro_rm.embed.share import pull_store

    commit = pull_store(Path(config.store.dir), config.share)
    say(f"pull     {config.share.repo} at {commit} verified: {config.store.dir}")
    return {"commit": commit}


def train(config: Config, say: Say) -> Result:
    """Stage 1: fit every chosen method that needs no labelled rows."""
    from micro_rm.heads import stages

    with working("train    heads and routers from plain pairs"):
        models, skipped = stages.train(config)
    say(f"train    {', '.join(models)}")
    for name, reason in skipped.items():
        say(f"train    {name} is left out: {reason}")
    return {"trained": list(models), "skipped": skipped}


def adapt(config: Config, say: Say) -> Result:
    """Stage 2: fit every chosen method that learns from labelled rows."""
    from micro_rm.heads import stages

    with working("adapt    learning from labelled rows"):
        models, skipped = stages.adapt(config)
    if models:
        source = "" if config.adapt.source == "train" else " of the test rows, not scored then"
        per = f"rows per {config.adapt.group}{source}"
        budget = f"{config.adapt.draws} draws of {config.adapt.budget} {per}"
        say(f"adapt    {', '.join(models)}: {budget}")
    for name, reason in skipped.items():
        say(f"adapt    {name} is left out: {reason}")
    return {"adapted": list(models), "skipped": skipped}


def evaluate(config: Config, say: Say) -> Result:
    """Score the held-out rows; writes report.json and predictions.parquet."""
    from micro_rm.heads import stages

    with working("evaluate scoring the held-out rows"):
        report = stages.evaluate(config)
    say(f"evaluate {report['test']['rows']:,} rows over {report['test']['prompts']:,} prompts")
    return {"rows": report["test"]["rows"], "prompts": report["test"]["prompts"]}


def report(config: Config, say: Say) -> Result:
    """Put the record into report.json, write report.html and print the table; likewise a sweep."""
    from micro_rm.heads import stages
    from micro_rm.heads.sweeps.table import read_sweep

    run = Path(config.run.dir)
    swept = {} if read_sweep(run) is None else {"sweep": _report_sweep(config, say)}
    if swept and not (run / "report.json").is_file():
        return swept
    from micro_rm.heads.evaluation.compare_display import compare_views
    from micro_rm.heads.evaluation.display import (
        attribute_table,
        benchmark_table,
        headline_methods,
        method_table,
    )

    with listing_files(run):
        content = stages.report(config, partial(_route, config))
    say("")
    say(method_table(content))
    say("")
    say(attribute_table(content, headline_methods(content)))
    say("")
    for sentence in (*content["verdict"], *content["warnings"]):
        say(sentence)
    if content["benchmark"] is not None:
        say("")
        say(benchmark_table(content["benchmark"]))
    for comparison in content["published"]:
        say("")
        _say_all(say, compare_views(comparison))
    for name, reason in content["skipped"].items():
        say(f"{name} was left out: {reason}")
    say(f"\nreport   {run / 'report.html'}\nnumbers  {run / 'report.json'}")
    say(f"per row  {run / 'predictions.parquet'}\nrecord   {run / 'record.json'}")
    return {"report": content} | swept


def _route(config: Config, prompts: Sequence[ExamplePrompt]) -> list[dict[str, Any]]:
    """Router weights of prompts, by the run's own backbone."""
    from micro_rm.serve.example_prompts import route_prompts

    with working("report   routing the example prompts"):
        return route_prompts(config.run.dir, prompts, device=config.embed.device)


def _report_sweep(config: Config, say: Say) -> Result:
    """Write sweep.html from sweep.parquet and print what it shows."""
    from micro_rm.heads.sweeps.display import sweep_tables
    from micro_rm.heads.sweeps.run import PAGE, write_page
    from micro_rm.heads.sweeps.table import FILE

    summary = write_page(config)
    say("")
    for part in sweep_tables(summary):
        say(part)
    place = Path(config.run.dir)
    say(f"page     {place / PAGE}\ntable    {place / FILE}")
    return summary


def export(config: Config, say: Say) -> Result:
    """Write a trained run as a model that other tools load."""
    from micro_rm.serve.export import export_run

    return export_run(Path(config.run.dir), config.export, device=config.embed.device, say=say)


LEARNING_STAGES = {"train": train, "adapt": adapt, "evaluate": evaluate}
OUTPUTS = {
    "train": ("model.safetensors", "model.json"),
    "adapt": ("model.safetensors", "model.json"),
    "evaluate": ("report.json", "predictions.parquet"),
}


def run(config: Config, say: Say, *, dry_run: bool = False) -> Result:
    """All stages in order; what is already done for the same inputs is skipped."""
    from micro_rm.heads.methods import check_names

    check_names(config.methods)
    require(
        config.embed.part == (0, 1),
        "embed.shards",
        "0/1 here; parts are for micro-rm embed, then run",
        config.embed.shards,
    )
    require(
        not config.report.prompts or config.data.source != SIMULATOR_SOURCE,
        "report.prompts",
        "none with the simulator, which has no text",
        f"{len(config.report.prompts)} prompts",
    )
    record = RunRecord(Path(config.run.dir), config)
    request = _request(config)
    embedded = _is_embedded(config, request)
    if dry_run:
        inputs = _stage_inputs(config, _learnt_from(config, request))
        todo = [name for name in LEARNING_STAGES if not _is_done(config, record, name, inputs)]
        say(
            f"run      embed: {'done' if embedded else 'to do'}; to do: {', '.join(todo) or 'none'}"
        )
        plan = {} if embedded else embed(config, say, dry_run=True)
        return plan | {"embedded": embedded, "stages": todo}
    for caveat in config.caveats():
        say(f"note     {caveat}")
    if config.data.source == SIMULATOR_SOURCE:
        say("embed    nothing: the simulator draws vectors, there is no text")
    elif embedded:
        say(f"embed    done before for the same inputs ({config.store.dir})")
    else:
        with record.stage("embed", request) as notes:
            notes |= embed(config, say, summary=True)
    for name in LEARNING_STAGES:
        if _is_done(config, record, name, _stage_inputs(config, _learnt_from(config, request))):
            say(f"{name:<8} done before for the same inputs")
        else:
            _run_stage(name, config, say, record)
    return report(config, say)


def study(config: Config, say: Say) -> Result:
    """Everything that ``run`` does, then the studies, and the report with both."""
    from micro_rm.heads.stages import open_workbench
    from micro_rm.heads.studies.display import study_tables
    from micro_rm.heads.studies.run import run_studies

    run(config, say)
    say("")
    place = Path(config.run.dir)
    with listing_files(place):
        done = run_studies(
            open_workbench(config),
            config.study.names,
            place,
            RunRecord(place, config).content["stages"]["evaluate"]["inputs"],
            lambda name: say(f"study    {name}"),
        )
    say("")
    for name in done:
        for part in study_tables(done[name]):
            say(part)
    report(config, lambda _: None)
    say(f"report   {place / 'report.html'}")
    return {"studies": done}


def score(config: Config, say: Say, place: str | None) -> Result:
    """Rewards of raw text; lines of JSON come back as lines of JSON."""
    from micro_rm import load
    from micro_rm.serve.score import ranking_table, score_lines, score_question

    model = load(config.run.dir, device=config.embed.device)
    if place is None:
        result = score_question(model, config.score)
        say(ranking_table(result, model.head_names))
        return result
    failed = 0
    with nullcontext(sys.stdin) if place == "-" else open(place, encoding="utf-8") as lines:
        for result in score_lines(model, lines, config.score):
            failed += "error" in result
            print(json.dumps(result), flush=True)
    problems = [f"{failed} lines could not be scored; each says why"] if failed else []
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return {"problems": problems}


def serve(config: Config, say: Say) -> Result:
    """Answer over HTTP until told to stop."""
    from micro_rm import load
    from micro_rm.serve.server import serve as answer

    model = load(config.run.dir, device=config.embed.device, room=config.serve.room)
    answer(model, config.serve, say)
    return {"stopped": True}


def sweep(config: Config, say: Say, *, dry_run: bool = False) -> Result:
    """Embed what is missing, then fit and score every member of the sweep."""
    from micro_rm.heads.methods import check_names
    from micro_rm.heads.sweeps.display import progress_line
    from micro_rm.heads.sweeps.plan import make_members
    from micro_rm.heads.sweeps.processes import join
    from micro_rm.heads.sweeps.run import run_sweep
    from micro_rm.heads.sweeps.table import locked

    check_names(config.sweep.methods)
    members = make_members(config)
    request = _request(config)
    embedded = _is_embedded(config, request)
    plan = f"{len(members)} members of {', '.join(config.sweep.methods)}"
    if dry_run:
        say(f"sweep    embed: {'done' if embedded else 'to do'}; {plan}")
        found = {} if embedded else embed(config, say, dry_run=True)
        return found | {"embedded": embedded, "members": len(members)}
    for caveat in config.caveats():
        say(f"note     {caveat}")
    require(
        embedded or not config.sweep.distributed,
        "sweep.distributed",
        "a store that is complete; run micro-rm embed first",
        "one that lacks vectors",
    )
    record = RunRecord(Path(config.run.dir), config)
    if not embedded:
        with record.stage("embed", request) as notes:
            notes |= embed(config, say)
    share = join(distributed=config.sweep.distributed)
    say(f"sweep    {plan}" + (f", part {share.part} of {share.parts}" if share.parts > 1 else ""))
    # One process of a job keeps the record.
    place = Path(config.run.dir)
    guard = partial(locked, place)
    stage = record.stage("sweep", fingerprint(request, config.sweep), guard)
    with listing_files(place, guard), stage if share.part == 0 else nullcontext({}) as notes:
        with working("sweep    fitting the first members"):
            outcome = run_sweep(
                config, _table_request(config), share, lambda *counts: say(progress_line(*counts))
            )
        notes |= {"fitted": outcome.fitted, "before": outcome.before, "failed": outcome.failed}
    if outcome.replaced:
        say(f"sweep    took the place of another sweep of {outcome.replaced} members")
    if outcome.before:
        say(f"sweep    {outcome.before} members were done before for the same inputs")
    with listing_files(place, guard):
        _report_sweep(config, say)
    return asdict(outcome)


def theory(config: Config, say: Say) -> Result:
    """Check Theorem 3.2 on random mixtures and fitted heads; writes theory.json and theory.html."""
    from micro_rm.cache.schema import write_json
    from micro_rm.heads.theory.display import theory_table
    from micro_rm.heads.theory.experiment import run_theory
    from micro_rm.heads.theory.page import render_theory_page

    place = Path(config.theory.dir)
    place.mkdir(parents=True, exist_ok=True)
    result = run_theory(config.theory)
    write_json(place / "theory.json", result)
    (place / "theory.html").write_text(render_theory_page(result), "utf-8")
    for part in theory_table(result):
        say(part)
    say(f"\npage     {place / 'theory.html'}\nnumbers  {place / 'theory.json'}")
    return {"theory": result}


def _request(config: Config) -> str:
    """Fingerprint of what the pair table is made from."""
    from micro_rm.embed.request import input_fingerprint

    if config.data.source == SIMULATOR_SOURCE:
        return fingerprint(SIMULATOR_SOURCE, config.data.simulator)
    return input_fingerprint(config)


def _table_request(config: Config) -> str | None:
    """Fingerprint of the pair table that is learnt from, whatever the text files hold by now."""
    from micro_rm.cache.pairs import read_request

    if config.data.source == SIMULATOR_SOURCE:
        return _request(config)
    return _learnt_from(config, read_request(Path(config.store.dir), config.data.name))


def _learnt_from(config: Config, request: str | None) -> str | None:
    """The request, and how many of its pairs the table lacks: failed ones, which a retry may fill
    in later, and deleted ones."""
    from micro_rm.cache.pairs import DELETED, read_account, read_request

    store = Path(config.store.dir)
    if config.data.source == SIMULATOR_SOURCE or request is None:
        return request
    if read_request(store, config.data.name) != request:
        return request
    account = read_account(store, config.data.name)  # older tables have neither
    missing = account.get("failed_pairs", 0), account.get(DELETED, 0)
    return f"{request} without {missing}" if any(missing) else request


def _run_stage(name: str, config: Config, say: Say, record: RunRecord) -> Result:
    """One learning stage under the record; whatever was built on an older result is outdated."""
    from micro_rm.cache.manifest import read_manifest

    if config.data.source == SIMULATOR_SOURCE:
        record.content["store"] = asdict(config.data.simulator)
    else:
        record.content["store"] = asdict(read_manifest(Path(config.store.dir)).identity)
    request = _table_request(config)
    order = list(LEARNING_STAGES)
    record.forget(order[order.index(name) :])
    with record.stage(name, _stage_inputs(config, request)[name]) as notes:
        notes |= LEARNING_STAGES[name](config, say)
    return notes


def _stage_inputs(config: Config, request: str | None) -> dict[str, str]:
    """Fingerprint of everything that each learning stage's result depends on.

    ``request`` identifies the pair table.
    """
    from micro_rm.heads.methods import check_names

    methods = check_names(config.methods)
    learning = [code_fingerprint("heads"), config.data.name, methods, config.run.seed]
    trained = fingerprint(request, learning, config.views, config.train, config.baselines)
    adapted = fingerprint(trained, config.adapt)
    return {
        "train": trained,
        "adapt": adapted,
        "evaluate": fingerprint(adapted, config.evaluate),
    }


def _is_done(config: Config, record: RunRecord, name: str, inputs: dict[str, str]) -> bool:
    sound = not any(record.problem(file) for file in OUTPUTS[name])
    return sound and record.done(name, inputs[name])


def _is_embedded(config: Config, request: str) -> bool:
    """Whether the store holds the pair table of exactly these inputs, with all its shards."""
    from micro_rm.cache.pairs import read_layout, read_request
    from micro_rm.cache.reader import FeatureStore

    if config.data.source == SIMULATOR_SOURCE:
        return True
    store = Path(config.store.dir)
    if not (store / "manifest.json").is_file() or read_request(store, config.data.name) != request:
        return False
    # Raises if a sealed shard is missing or misshapen.
    return FeatureStore(store).manifest.fits(read_layout(store, config.data.name))


def execute(options: Options, config: Config, say: Say) -> Result:
    """Run one command."""
    name = options.command
    if name in ("run", "demo"):
        return run(config, say, dry_run=options.dry_run)
    if name == "score":
        return score(config, say, options.place)
    if name == "sweep":
        return sweep(config, say, dry_run=options.dry_run)
    if options.dry_run and name != "embed":
        say(f"{name:<8} nothing to plan: this command reads or takes seconds; --dry_run ends here")
        return {"command": name}
    if name == "embed":
        return embed(config, say, dry_run=options.dry_run)
    if name in ("gc", "delete", "copy"):
        return upkeep(name, config, say, quiet=options.json)
    if name in LEARNING_STAGES:
        return _run_stage(name, config, say, RunRecord(Path(config.run.dir), config))
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
    """The command ``micro-rm``. Returns 0, 1 if check or verify found problems, 2 for an error."""
    from micro_rm.configs.command_line import parse  # the stages run without jsonargparse

    signal.signal(signal.SIGTERM, _stop)
    try:
        options, config = parse(sys.argv[1:] if argv is None else argv)
        config = _with_place(options, config)
        say = make_printer(quiet=options.json)
        result = execute(options, config, say)
    except KeyboardInterrupt:
        print("stopped; the same command goes on behind what is finished", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print(f"micro-rm: {printable(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(redact_all(result), indent=2, allow_nan=False))
    return 1 if result.get("problems") or result.get("refused") else 0


def _with_place(options: Options, config: Config) -> Config:
    """The configuration with the file or directory that was named on the command line."""
    if options.place is None:
        return config
    if options.command == "score":
        return config
    if options.command == "check":
        return replace(config, data=replace(config.data, train=options.place))
    if options.command == "retry":
        return replace(config, data=replace(config.data, corrections=options.place))
    return replace(config, store=replace(config.store, dir=options.place))


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
