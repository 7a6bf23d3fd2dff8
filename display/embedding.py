"""Terminal output of check and embed: tables, and progress with rate and time left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..common.columns import Column, Columns
from ..configs.resolve import resolve_views
from ..configs.schema import ViewsConfig

if TYPE_CHECKING:
    from ..embed.encoder import Encoder
    from ..embed.shard_loop import ProgressCallback
    from ..embed.stage import JobPreview, JobResult

LINE_SECONDS = 10.0  # between progress lines where there is no terminal


def summary_tables(name: str, summary: dict[str, Any]) -> list[RenderableType]:
    """The parts of the result of ``check`` to print, down to every refused row.

    Args:
        name: Name of the data set.
        summary: Counts per attribute, split, length and reason.
    """
    counts = Table(box=None, show_header=False, pad_edge=False)
    for label, value in (
        ("rows read", summary["rows"]),
        ("pairs", summary["pairs"]),
        ("rows or pairs refused", summary["refused"]),
        ("rating ties dropped", sum(summary["ties"].values())),
        ("chosen equal to rejected", summary["chosen_equals_rejected"]),
        ("unanimous responses dropped", summary["unanimous"]),
        *((f"left out: {reason}", number) for reason, number in summary["left_out"].items()),
        ("exact duplicates", summary["duplicates"]),
        ("pairs also judged the other way", summary["contradictions"]),
        (
            "prompts in train / test",
            "{train[prompts]} / {test[prompts]}".format(**summary["splits"]),
        ),
        ("prompts in both", summary["prompt_overlap"]),
        ("pairs with a context", summary["with_context"]),
        ("users", summary["users"]),
    ):
        counts.add_row(Text(label), str(value))
    attributes = Table("attribute", "train", "test", "ties", box=None, pad_edge=False)
    for attribute, numbers in summary["attributes"].items():
        attributes.add_row(
            Text(attribute), *(str(numbers[key]) for key in ("train", "test", "ties"))
        )
    percentiles = list(summary["words"]["chosen"])
    words = Table("words", *percentiles, box=None, pad_edge=False)
    for role, values in summary["words"].items():
        words.add_row(role, *(str(values[key]) for key in percentiles))
    for table in (attributes, words):
        for column in table.columns[1:]:
            column.justify = "right"
    parts: list[RenderableType] = [name, counts, "", attributes, "", words, ""]
    if len(summary["sources"]) > 1:
        parts += [source_table(summary["sources"]), ""]
    parts += [f"licence  {name}: {terms}" for name, terms in summary["licences"].items()]
    parts += [
        f"upstream {table['where']}: {table['found']:,} rows"
        + ("" if table["expected"] is None else ", as expected")
        for table in summary["upstream"]
        if table["expected"] in (None, table["found"])
    ]
    parts += [f"warning  {warning}" for warning in summary["warnings"]]
    for item in summary["refusals"]:
        location = ": ".join(filter(None, (f"{item['file']} row {item['row']}", item["field"])))
        parts.append(f"refused  {location}: {item['reason']}")
    return parts


def source_table(sources: Mapping[str, Mapping[str, int]]) -> Columns:
    """A table with one row per source: rows read, and what became of them."""
    columns = next(iter(sources.values()))
    return Columns(
        [Column("source", list(sources))],
        [Column(key, [f"{counts[key]:,}" for counts in sources.values()]) for key in columns],
    )


@contextmanager
def embedding_progress(console: Console) -> Iterator[ProgressCallback]:
    """Yield a progress callback: a bar on a terminal, elsewhere a line every ten seconds."""
    if not console.is_terminal:
        yield _line_progress(console)
        return
    columns = (TextColumn("embed"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, note="starting")

        def advance(done: int, total: int, seconds: float) -> None:
            bar.update(task, completed=done, total=total, note=_note(done, total, seconds))

        yield advance


def _line_progress(console: Console) -> ProgressCallback:
    last = 0.0

    def advance(done: int, total: int, seconds: float) -> None:
        nonlocal last
        if seconds - last >= LINE_SECONDS:
            last = seconds
            console.print(f"embed    {_note(done, total, seconds)}", highlight=False)

    return advance


def _note(done: int, total: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    left = (total - done) / max(rate, 1e-9)
    return f"{done:,} of {total:,} tokens, {rate:,.0f} tokens/s, {duration(left)} left"


READ_OUTS = {"last": "last token", "mean": "mean over tokens", "cls": "first token"}
POLICIES = {
    "drop": "longer ones are dropped and counted",
    "truncate_prompt": "of longer ones the prompt is shortened",
    "truncate_end": "longer ones are cut at the end",
    "error": "a longer one stops the job",
}
VIEWS = {"plain": "the prompt", "ctx": "the context and the prompt", "context": "the context alone"}


def backbone_lines(encoder: Encoder, views: ViewsConfig, kept: str) -> list[str]:
    """Describe the backbone with the settings that a configuration may leave open.

    Args:
        encoder: The encoder with its backbone.
        views: View configuration, resolved here for the pooling of the backbone.
        kept: Says that the dtype is that of the store; empty if it was chosen for this job.
    """
    config, backbone = encoder.config, encoder.backbone
    views = resolve_views(views, backbone.pooling)
    return [
        f"embed    {config.name} in {backbone.dtype} on {backbone.device}: "
        f"{kept or backbone.dtype_reason}",
        f"embed    {READ_OUTS[backbone.pooling]}, sequences of up to {backbone.max_length:,} "
        f"tokens ({POLICIES[config.overlong]}); given a context, routers read "
        f"{VIEWS[views.adapt_router]}",
    ]


def preview_lines(preview: JobPreview, encoder: Encoder) -> list[str]:
    """Describe a plan: sequences, tokens without and with prefix sharing, forward passes."""
    backbone = encoder.backbone
    saved = preview.separate_tokens / max(preview.tokens, 1)
    fewer = f" ({saved:.2f} times fewer)" if backbone.sharing else ""
    lines = [
        f"embed    {preview.pairs:,} pairs, {preview.sequences:,} distinct sequences, "
        f"{preview.stored_sequences:,} of them stored"
    ]
    if preview.bins:
        lines += [
            f"embed    {preview.separate_tokens:,} tokens one by one, {preview.tokens:,} to "
            f"compute{fewer}; {preview.note}",
            f"embed    {preview.bins:,} forward passes of up to {backbone.bin_tokens:,} tokens, "
            f"{preview.fill:.1%} full, in {preview.shards:,} shards",
        ]
    if preview.failed_sequences:
        lines.append(
            f"embed    {preview.failed_sequences:,} sequences are left out: the backbone gave NaN "
            "or infinity for them before; micro-rm retry tries them again"
        )
    if preview.shortage:
        lines.append(f"embed    not enough room: {preview.shortage}")
    return lines


def outcome_lines(outcome: JobResult) -> list[str]:
    """Describe what a process has done: tokens, throughput, failures, shards left to others."""
    lines = []
    throughput = outcome.throughput
    if outcome.work.tokens:
        lines.append(
            f"embed    {outcome.work.tokens:,} tokens in {duration(outcome.seconds)}, "
            f"{throughput.tokens_per_second:,.0f} tokens/s"
        )
    if outcome.work.tokens and throughput.flops_per_second is not None:
        lines.append(
            f"embed    {throughput.flops_per_second / 1e12:.3g} TFLOP/s useful, "
            f"{throughput.utilization:.0%} of a matrix product's "
            f"{throughput.peak_flops_per_second / 1e12:.3g} measured here"
        )
    if outcome.account is not None and outcome.account["failed_pairs"]:
        lines.append(
            f"embed    {outcome.account['failed_pairs']:,} pairs are left out: the backbone gives "
            f"NaN or infinity for {outcome.account['failed_sequences']:,} of their sequences; the "
            "quarantine names them, micro-rm retry tries them again"
        )
    if outcome.account is None:
        lines.append(
            f"embed    {outcome.pending_shards:,} shards are left to other processes; the last of "
            "them writes the pair table"
        )
    return lines


def outcome_facts(outcome: JobResult) -> dict[str, Any]:
    """The result of a process as a JSON object."""
    facts = asdict(outcome.preview) | {
        "seconds": round(outcome.seconds, 3),
        "computed_tokens": outcome.work.tokens,
        "pending_shards": outcome.pending_shards,
        "account": outcome.account,
    }
    return facts | asdict(outcome.throughput) | {"share_of_peak": outcome.throughput.utilization}


def duration(seconds: float) -> str:
    """Format seconds in the unit that gives a short number.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
