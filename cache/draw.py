"""Draw the description of a store as lines of text with bars, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BAR = 24  # width of a bar, in characters
SHOWN = 20  # labels per table; further ones are only counted
NAME = 24  # width of a label, in characters
EIGHTHS = " ▏▎▍▌▋▊▉"


def draw_store(description: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that show what ``describe_store`` returned: the store, then its tables."""
    identity = description["identity"]
    shards = description["shards"]
    yield f"store    {description['store']}"
    yield (
        f"vectors  {description['vectors']:,} of width {description['width']:,} "
        f"({identity['dtype']}), {format_bytes(description['bytes'])} in {shards:,} "
        f"shard{'' if shards == 1 else 's'}"
    )
    yield (
        f"backbone {identity['backbone']} at {identity['revision']}, {identity['pooling']} "
        f"read-out, up to {identity['max_length']:,} tokens"
    )
    yield f"weights  sha256 {identity['weights'][:16]}…"
    if description["unfinished_job"]:
        yield (
            f"note     an embedding job is not finished: {description['shards_of_unfinished_job']} "
            "of its shards are here; the same command goes on"
        )
    if not description["tables"]:
        yield "tables   none yet; micro-rm embed writes one for every data set"
    for name, table in description["tables"].items():
        yield from _draw_table(name, table)


def _draw_table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"table    {name}: {table['pairs']:,} pairs"
    for title in ("splits", "attributes"):
        counts = table[title]
        largest = max(counts.values(), default=0)
        for index, (label, count) in enumerate(list(counts.items())[:SHOWN]):
            heading = title if index == 0 else ""
            yield f"  {heading:<10}  {padded(label)}  {count:>9,}  {bar(count, largest)}".rstrip()
        if len(counts) > SHOWN:
            yield f"  {'':<10}  and {len(counts) - SHOWN} more; --json has them all"
    views = sorted({view.partition("/")[0] for view in table["views"]})
    yield f"  {'views':<10}  {', '.join(views)}"
    losses = ("refused", "failed_pairs", "shortened_sequences", "prompt_overlap", "deleted_pairs")
    lost = [
        f"{table['account'][key]:,} {key.replace('_', ' ')}"
        for key in losses
        if table["account"].get(key)  # older tables lack some
    ]
    yield f"  {'account':<10}  {', '.join(lost) or 'nothing refused, failed or shortened'}"


def bar(value: float, largest: float, width: int = BAR) -> str:
    """A bar whose length is ``value / largest`` of ``width`` characters, to an eighth of one.

    Any value above 0 shows at least an eighth.

    >>> bar(3, 4, width=2)
    '█▌'
    """
    eighths = 0 if largest <= 0 else round(8 * width * max(0.0, min(1.0, value / largest)))
    if value > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + EIGHTHS[rest].strip()


def padded(name: str, width: int = NAME) -> str:
    """A name padded, or cut with an ellipsis, to ``width`` characters.

    >>> padded("abcdef", 5)
    'abcd…'
    """
    return f"{name[: width - 1]}…" if len(name) > width else f"{name:<{width}}"


def format_bytes(count: float) -> str:
    """A number of bytes in the largest binary unit of which there is at least 1.

    >>> format_bytes(3 << 20)
    '3.0 MiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
