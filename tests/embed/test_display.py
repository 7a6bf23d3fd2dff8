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


def test_every_count_warning_and_refusal_is_shown(make_pair: Callable[..., PreferencePair]) -> None:
    pairs = [
        make_pair("p", attribute="[bold]brief", context="w"),
        make_pair("q", attribute="[bold]brief", split="test"),
    ]

    def read(_config: DataConfig, account: Account) -> Iterator[PreferencePair]:
        account.refusals.append(Refusal(7, "chosen", "expected text, found [int]", "rows.jsonl"))
        yield from pairs

    stream = io.StringIO()
    console = Console(file=stream, width=200, markup=False, highlight=False)
    for table in summary_tables("my [data]", summarise(PairSource(DataConfig(), read))):
        console.print(table)
    for words in (
        "my [data]",
        "rows read",
        "\nattribute    train  test  ties\n[bold]brief      1     1     0\n",
        "\nwords     p0  p5  p25  p50  p75  p95  p100\n",
        "\nprompt     1   1    1    1    1    1     1\n",
        "prompts in train / test",
        "1 / 1",
        "refused  rows.jsonl row 7: chosen: expected text, found [int]",
        "warning  attribute [bold]brief has only 1 test rows",
    ):
        assert words in stream.getvalue()


def test_durations_are_said_as_people_do() -> None:
    said = [duration(seconds) for seconds in (0.2, 99, 100, 5999, 7200)]
    assert said == ["0 s", "99 s", "2 min", "100 min", "2.0 h"]


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


@pytest.mark.parametrize(
    ("family", "saving"),
    [("llama", " (2.40 times fewer)"), ("bert", "")],  # which shares nothing
)
def test_a_preview_tells_what_sharing_saves_and_how_full_the_passes_are(
    family: str, saving: str, encoder: Callable[..., Encoder]
) -> None:
    made = encoder(family)
    assert preview_lines(PREVIEW, made) == [
        "embed    1,200 pairs, 5,000 distinct sequences, 1,000 of them stored",
        f"embed    2,400,000 tokens one by one, 1,000,000 to compute{saving}; prefixes are shared",
        "embed    245 forward passes of up to 256 tokens, 99.7% full, in 2 shards",
    ]
    nothing = replace(PREVIEW, separate_tokens=0, tokens=0, bins=0, shards=0)
    assert len(preview_lines(nothing, made)) == 1


def test_an_outcome_tells_speed_share_of_the_peak_and_what_is_left() -> None:
    first, second = outcome_lines(OUTCOME)
    assert first == "embed    1,000,000 tokens in 8 min, 2,000 tokens/s"
    assert second.startswith("embed    3 TFLOP/s useful, 50% of ")
    assert " 6 " in second
    *_, line = outcome_lines(replace(OUTCOME, account=None, pending_shards=12))
    assert line == (
        "embed    12 shards are left to other processes; the last of them writes the pair table"
    )
    unknown = replace(OUTCOME, throughput=replace(THROUGHPUT, flops_per_second=None))
    assert outcome_lines(unknown) == [first]
    assert outcome_facts(unknown)["share_of_peak"] is None
    assert outcome_lines(replace(OUTCOME, work=Work())) == []


def test_the_facts_of_an_outcome_are_json_with_every_number() -> None:
    facts = json.loads(json.dumps(outcome_facts(OUTCOME)))
    expected = {
        "pairs": 1200,
        "new_sequences": 4000,
        "fill": 0.9965,
        "computed_tokens": 1_000_000,
        "pending_shards": 0,
        "seconds": 500.0,
        "account": OUTCOME.account,
        "tokens_per_second": 2000.0,
        "share_of_peak": 0.5,
    }
    assert facts | expected == facts
