"""What a terminal shows of data and embedding."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from micro_rm.embed.display import duration, embedding_progress, summary_views
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.collection import Collection
from micro_rm.embed.sources.pair import PreferencePair, Refusal


def shown(*parts: object, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, markup=False, highlight=False)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def test_every_count_warning_and_refusal_is_shown(
    make_pair: Callable[..., PreferencePair],
) -> None:
    pairs = [
        make_pair("p", attribute="[bold]brief", context="w"),
        make_pair("q", attribute="[bold]brief", split="test"),
    ]
    refusals = [Refusal(7, "chosen", "expected text, found [int]", "rows.jsonl")]
    text = shown(*summary_views("my [data]", summarise(Collection(pairs, refusals, 3))))
    for words in (
        "my [data]",
        "rows read",
        "[bold]brief",
        "prompts in train / test",
        "1 / 1",
        "refused  rows.jsonl row 7: chosen: expected text, found [int]",
        "warning  attribute [bold]brief has only 1 test rows",
    ):
        assert words in text


def test_an_empty_collection_can_be_shown() -> None:
    assert "rows read" in shown(*summary_views("nothing", summarise(Collection())))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (7200, "2.0 h")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_progress_is_a_line_every_ten_seconds_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with embedding_progress(Console(file=stream, width=200)) as progress:
        for second in range(31):
            progress(second * 100, 6000, float(second))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "embed    1,000 of 6,000 tokens, 100 tokens/s, 50 s left"


def test_progress_is_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True)
    with embedding_progress(console) as progress:
        progress(1000, 6000, 10.0)
        progress(6000, 6000, 60.0)
    assert "embed" in stream.getvalue()
