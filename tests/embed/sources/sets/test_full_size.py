"""Counts of the real data sets, where they are.

MICRO_RM_HUB_DATA names a directory with ``<source>/<part>.jsonl.gz`` or the like, as ``data.dir``
takes them. Without it these tests are skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.embed.sources.sets import PUBLISHED
from micro_rm.heads.evaluation.compare import published_tables
from micro_rm.heads.evaluation.reward_bench import SECTIONS

Load = Callable[..., Any]


@pytest.fixture
def real(load: Load) -> Load:
    """``real(name, **settings)``: the real data set, or a skipped test."""

    def read(name: str, **settings: Any) -> Any:
        index = Path(os.environ.get("MICRO_RM_HUB_DATA", "")) / name
        if "MICRO_RM_HUB_DATA" not in os.environ or not index.is_dir():
            pytest.skip(f"the real {name} is not here: MICRO_RM_HUB_DATA/{name} is no directory")
        return load(name, index, **settings)

    return read


def counted(pairs: Any, split: str) -> Counter[str]:
    return Counter(pair.attribute for pair in pairs if pair.split == split)


def test_every_table_has_the_rows_that_are_documented(load: Load) -> None:
    base = Path(os.environ.get("MICRO_RM_HUB_DATA", "nowhere"))
    here = [name for name in PUBLISHED if (base / name).is_dir()]
    if not here:
        pytest.skip("no real data set is here: MICRO_RM_HUB_DATA")
    for name in here:
        for table in load(name, base / name).account.upstream:
            assert table.expected in (None, table.found), table


@pytest.mark.parametrize(("name", "variant"), [("helpsteer2", "official"), ("rpr", "nine")])
def test_pairs_per_attribute_are_those_of_table_5(name: str, variant: str, real: Load) -> None:
    counts = published_tables()["table5"]["counts"][name]
    pairs = real(name, variant=variant).pairs
    for split in ("train", "test"):
        found = counted(pairs, split)
        assert [found[attribute] for attribute in counts["attributes"]] == counts[split]


def test_by_prompt_tests_on_the_validation_split_alone(real: Load) -> None:
    found = counted(real("helpsteer2").pairs, "test")
    assert found == {
        "helpfulness": 373,
        "correctness": 354,
        "coherence": 196,
        "complexity": 143,
        "verbosity": 254,
    }


def test_every_row_of_rpr_makes_two_pairs_before_categories_are_left_out(real: Load) -> None:
    found = real("rpr", variant="ten")
    assert len(found.pairs) + found.account.left_out.total() == 20_334 + 2_000
    assert not found.account.refusals
    rows = Counter((pair.split, pair.row) for pair in found.pairs)
    assert 0 < sum(number == 2 for number in rows.values()) < len(rows)


def test_subsets_of_reward_bench_have_the_rows_that_they_are_weighted_by(real: Load) -> None:
    found = real("reward_bench")
    expected = {name: rows for section in SECTIONS.values() for name, rows in section.items()}
    refused = len(found.account.refusals)
    assert sum((Counter(expected) - counted(found.pairs, "test")).values()) == refused
