"""Training and test rows: by prompt unless the data say otherwise, whatever else the file holds."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from micro_rm.configs.data import ColumnsConfig
from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.check import summarise
from micro_rm.embed.sources.pair import SAME_TEXT

from .conftest import GOOD, Load, Loaded, Row


def prompts_of(result: Loaded, split: str) -> set[str]:
    return {pair.prompt_id for pair in result.pairs if pair.split == split}


def overlap(result: Loaded) -> int:
    return len(prompts_of(result, "train") & prompts_of(result, "test"))


def many(number: int = 400) -> list[Row | str]:
    return [
        {"prompt": f"prompt {index // 4}", "chosen": f"x{index}", "rejected": "y"}
        for index in range(number)
    ]


def test_the_share_of_test_prompts_is_the_fraction_and_grows_with_it(load: Load) -> None:
    results = [load(many(), test_fraction=share) for share in (0.1, 0.5, 0.9)]
    assert [overlap(result) for result in results] == [0, 0, 0]
    first, second, third = (prompts_of(result, "test") for result in results)
    assert first < second < third
    assert 35 <= len(second) <= 65 and len(second) + len(prompts_of(results[1], "train")) == 100


def test_rated_responses_are_split_by_prompt_too(load: Load) -> None:
    rows: list[Row | str] = [
        {"prompt": f"prompt {index // 2}", "response": f"r{index}", "help": index % 2}
        for index in range(200)
    ]
    result = load(rows, test_fraction=0.5)
    assert (overlap(result), result.account.refusals) == (0, [])
    assert 30 <= len(prompts_of(result, "test")) <= 70


def test_neither_split_nor_id_depends_on_other_rows_or_their_order(load: Load) -> None:
    rows = many(80)
    whole, half = load(rows), load(random.Random(3).sample(rows, 80)[:40])
    keyed = {pair.pair_id: (pair.split, pair.chosen, pair.prompt) for pair in whole.pairs}
    assert len(keyed) == 80
    some = {pair.pair_id: (pair.split, pair.chosen, pair.prompt) for pair in half.pairs}
    assert len(some) == 40 and some.items() <= keyed.items()


def test_a_split_column_is_followed(load: Load) -> None:
    """Under the data's own split an overlap is possible, and it is counted."""
    result = load([GOOD | {"split": "train"}, GOOD | {"split": "test", "chosen": "z"}])
    assert [pair.split for pair in result.pairs] == ["train", "test"]
    assert overlap(result) == 1


def test_a_test_file_decides_the_split(load: Load) -> None:
    pairs, _ = load([GOOD | {"split": "test"}], test=[GOOD | {"split": "train", "prompt": "b"}])
    assert [(pair.split, pair.prompt[0].content, pair.row) for pair in pairs] == [
        ("train", "a", 1),
        ("test", "b", 1),
    ]


# Real data, where they lie beside the repository


@pytest.fixture
def data(repository: Path) -> Path:
    """The shared data; tests that read them are skipped where they are missing."""
    directory = repository.parent / "shared" / "data"
    if not (directory / "alpaca_styles").is_dir():
        pytest.skip(f"no preference data at {directory}")
    return directory


@pytest.mark.long
def test_alpaca_styles_has_every_pair_with_both_labels(data: Path) -> None:
    """Counts, opposite labels, no overlap, unseen test wordings, the polarity of ratings."""
    base = data / "alpaca_styles"
    files = {name: str(base / f"{name}.jsonl.gz") for name in ("train", "test")}
    source = open_pairs(DataConfig(**files, contexts=str(base / "contexts.json")))
    pairs = list(source)
    assert Counter(pair.split for pair in pairs) == {"train": 4138, "test": 1058}
    assert source.account.rows == 2420
    assert all(refusal.reason.startswith(SAME_TEXT) for refusal in source.account.refusals)
    summary = summarise(source)
    assert summary["contradictions"] == len(pairs)
    assert (summary["prompt_overlap"], summary["duplicates"]) == (0, 0)
    assert summary["splits"]["train"]["prompts"] <= 485
    assert summary["splits"]["test"]["prompts"] <= 120
    assert len(summary["attributes"]) == 8
    for one, other in (("detail", "brevity"), ("structure", "plain-prose")):
        assert summary["attributes"][one] == summary["attributes"][other]
    contexts = json.loads((base / "contexts.json").read_text("utf-8"))
    assert all(pair.context in contexts[pair.attribute][pair.split] for pair in pairs)
    longer = Counter(
        pair.attribute for pair in pairs if len(pair.chosen.split()) > len(pair.rejected.split())
    )
    count = Counter(pair.attribute for pair in pairs)
    assert longer["detail"] > 0.95 * count["detail"]
    assert longer["brevity"] < 0.05 * count["brevity"]


def test_hh_rlhf_loads_every_turn_and_accounts_for_every_row(data: Path) -> None:
    file = data / "hh_rlhf_relabelled" / "both.jsonl.gz"
    source = open_pairs(DataConfig(train=str(file), columns=ColumnsConfig(attribute="objective")))
    result = Loaded(list(source), source.account)
    assert result.account.rows == 4043 == len(result.pairs) + len(result.account.refusals)
    assert len(result.pairs) > 3900 and overlap(result) == 0
    assert {pair.attribute for pair in result.pairs} == {"helpful", "harmless"}
    assert sum(len(pair.prompt) >= 3 for pair in result.pairs) > 1000
    for pair in result.pairs:
        assert pair.prompt[-1].role == "user" and len(pair.prompt) % 2 == 1
