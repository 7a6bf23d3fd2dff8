"""What a terminal shows of data and embedding."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from micro_rm.configs.schema import DataConfig
from micro_rm.display.embedding import (
    duration,
    embedding_progress,
    outcome_facts,
    outcome_lines,
    preview_lines,
    summary_tables,
)
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.sources import PairSource
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.pair import PreferencePair, Refusal
from micro_rm.embed.stage import JobPreview, JobResult
from micro_rm.embed.throughput import Throughput, Work


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

    def read(_config: DataConfig, account: Account) -> Iterator[PreferencePair]:
        account.refusals.append(Refusal(7, "chosen", "expected text, found [int]", "rows.jsonl"))
        yield from pairs

    text = shown(*summary_tables("my [data]", summarise(PairSource(DataConfig(), read))))
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


PREVIEW = JobPreview(
    pairs=1200,
    sequences=5000,
    stored_sequences=1000,
    new_sequences=4000,
    separate_tokens=2_400_000,
    tokens=1_000_000,
    bins=245,
    fill=0.9965,
    shards=2,
    bytes=4000 * 64,
    note="prefixes are shared",
)
THROUGHPUT = Throughput(tokens_per_second=2000.0, flops_per_second=3e12, peak_flops_per_second=6e12)
OUTCOME = JobResult(
    preview=PREVIEW,
    work=Work(tokens=1_000_000, attended=10**9),
    seconds=500.0,
    throughput=THROUGHPUT,
    pending_shards=0,
    account={"rows": 1200, "failed_pairs": 0},
)


def test_a_preview_tells_what_sharing_saves_and_how_full_the_passes_are(
    encoder: Callable[..., Encoder],
) -> None:
    made = encoder("llama")
    first, second, third = preview_lines(PREVIEW, made)
    assert first == ("embed    1,200 pairs, 5,000 distinct sequences, 1,000 of them stored")
    assert second == (
        "embed    2,400,000 tokens one by one, 1,000,000 to compute (2.40 times fewer); "
        "prefixes are shared"
    )
    assert third == "embed    245 forward passes of up to 256 tokens, 99.7% full, in 2 shards"


def test_a_preview_promises_nothing_where_nothing_is_shared(
    encoder: Callable[..., Encoder],
) -> None:
    _, line, _ = preview_lines(PREVIEW, encoder("bert"))
    assert line == (
        "embed    2,400,000 tokens one by one, 1,000,000 to compute; prefixes are shared"
    )


def test_a_preview_of_nothing_to_do_is_one_line(encoder: Callable[..., Encoder]) -> None:
    nothing = replace(PREVIEW, separate_tokens=0, tokens=0, bins=0, shards=0)
    assert len(preview_lines(nothing, encoder("llama"))) == 1


def test_an_outcome_tells_speed_and_share_of_the_peak() -> None:
    first, second = outcome_lines(OUTCOME)
    assert first == "embed    1,000,000 tokens in 8 min, 2,000 tokens/s"
    assert second.startswith("embed    3 TFLOP/s useful, 50% of ")
    assert " 6 " in second


def test_an_outcome_without_known_operations_tells_no_share() -> None:
    unknown = replace(OUTCOME, throughput=replace(THROUGHPUT, flops_per_second=None))
    (line,) = outcome_lines(unknown)
    assert "TFLOP" not in line
    assert outcome_facts(unknown)["share_of_peak"] is None


def test_an_outcome_of_a_part_tells_what_is_left() -> None:
    *_, line = outcome_lines(replace(OUTCOME, account=None, pending_shards=12))
    assert line == (
        "embed    12 shards are left to other processes; the last of them writes the pair table"
    )


def test_nothing_was_done_and_nothing_is_left_to_say() -> None:
    assert outcome_lines(replace(OUTCOME, work=Work())) == []


def test_the_facts_of_an_outcome_are_json_with_every_number() -> None:
    facts = json.loads(json.dumps(outcome_facts(OUTCOME)))
    assert (facts["pairs"], facts["new_sequences"], facts["fill"]) == (1200, 4000, 0.9965)
    assert (facts["computed_tokens"], facts["pending_shards"]) == (1_000_000, 0)
    assert (facts["seconds"], facts["account"]) == (500.0, OUTCOME.account)
    assert facts["tokens_per_second"] == 2000.0
    assert facts["share_of_peak"] == 0.5
