"""From text to the store: ``check``, ``embed``, ``retry`` and ``extend``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.console import Say, say_all, spinner
from ..common.imports import permanent_imports
from ..configs.schema import Config
from ..run_dir.store_settings import kept_dtype, resolve_from_store

if TYPE_CHECKING:
    from ..embed.encoder import Encoder
    from ..embed.sources import PairSource
    from ..embed.stage import JobPreview

Result = dict[str, Any]


def check(config: Config, say: Say) -> Result:
    """Validate the data set and print a summary."""
    from ..embed.sources import open_pairs

    return _show_summary(config, open_pairs(config.data), say)


def _show_summary(config: Config, source: PairSource, say: Say) -> Result:
    from ..display.embedding import summary_tables
    from ..embed.sources.check import summarise

    summary = summarise(source)
    for part in summary_tables(config.data.train or config.data.source, summary):
        say(part)
    if config.report.compare == "paper":
        from ..display.published import comparison_tables
        from ..heads.evaluation.compare import COUNTS, compare

        if config.report.tables and COUNTS not in config.report.tables:
            return summary
        summary["published"] = [compare({"account": summary}, COUNTS)]
        say_all(say, comparison_tables(summary["published"][0]))
    return summary


def embed(
    config: Config, say: Say, *, dry_run: bool = False, summary: bool = False, retry: bool = False
) -> Result:
    """Embed the sequences that the store lacks, and write the pair table of the data set.

    With ``dry_run`` only the plan and its cost are printed. ``summary`` prints the summary of the
    data set first. ``retry`` includes sequences that had a vector with NaN or infinity before.
    """
    from rich.console import Console

    from ..display import embedding as display
    from ..embed.downloads import to_download
    from ..embed.input_fingerprint import input_fingerprint
    from ..embed.sources import open_pairs

    asked, config = config, resolve_from_store(config)
    input_fingerprint(config)  # names a missing file before a model is loaded
    source = open_pairs(config.data)
    if dry_run:
        downloads = to_download(config.data, config.backbone)
        say_all(say, [f"download {item}" for item in downloads])
        if downloads:
            say("embed    sequences, tokens and minutes are known once these are here")
            return {"downloads": downloads}
    if summary:
        _show_summary(config, source, say)

    def planned(preview: JobPreview, encoder: Encoder) -> None:
        kept = kept_dtype(asked, config)
        say_all(say, display.backbone_lines(encoder, config.views, kept))
        say_all(say, display.preview_lines(preview, encoder))

    with permanent_imports(), spinner("embed    loading torch"):
        from ..embed.stage import preview_job, run_job
    if dry_run:
        preview, seconds, encoder = preview_job(config, source)
        planned(preview, encoder)
        say(f"embed    {preview.bytes:,} bytes, about {display.duration(seconds)}")
        return asdict(preview) | {"estimated_seconds": round(seconds, 3)}
    with display.embedding_progress(Console(stderr=True)) as progress:
        outcome = run_job(
            config,
            source,
            on_plan=planned,
            progress=progress,
            notify=lambda text: say(f"embed    {text}"),
            retry=retry,
        )
    say_all(say, display.outcome_lines(outcome))
    return display.outcome_facts(outcome)


def retry(config: Config, say: Say) -> Result:
    """Embed the corrected rows of a quarantine file, and the sequences that failed before."""
    from ..embed.quarantine import quarantine_path

    result = embed(config, say, retry=True)
    account, fixes = result["account"], config.data.corrections
    if account is not None:
        path = quarantine_path(Path(config.store.dir), config.data.name)
        say(
            f"retry    {account['corrected_rows']:,} rows were read as corrected; "
            f"{account['refused']:,} rows or pairs are still refused: {path}"
        )
    if fixes is not None:
        say(f"retry    from now on give --data.corrections {fixes}, also to micro-rm run")
    return result


def extend(config: Config, say: Say) -> Result:
    """Embed new data into an existing store."""
    from ..cache.manifest import read_manifest

    before = read_manifest(Path(config.store.dir)).rows
    result = embed(config, say)
    after = read_manifest(Path(config.store.dir)).rows
    say(f"extend   {after - before:,} vectors added to {before:,}")
    return result | {"vectors_before": before, "vectors": after}
