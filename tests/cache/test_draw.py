"""A store is drawn as lines of text for a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from micro_rm.cache.draw import BAR, bar, draw_store, format_bytes, padded
from micro_rm.cache.inspect import describe_store
from micro_rm.cache.pairs import write_pairs
from micro_rm.tests.cache.stores import make_store, make_table


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path, (5, 3))
    table = make_table([0, 1, 2, 2])
    table.text["split"][3] = "test"
    table.text["attribute"][:] = ["brief", "brief", "", "a long name of an attribute, and more"]
    write_pairs(tmp_path, table)
    return tmp_path


def test_a_store_is_drawn_with_its_counts_and_fits_eighty_columns(store: Path) -> None:
    lines = list(draw_store(describe_store(store)))
    text = "\n".join(lines)
    assert "vectors  8 of width 6" in text and "in 2 shards" in text
    assert "table    rows: 4 pairs" in text and "views       ctx, plain" in text
    assert max(len(line) for line in lines[1:]) <= 80
    drawn = {line.split()[-3]: line.split() for line in lines if "█" in line}
    assert drawn["train"][-2:] == ["3", "█" * BAR]
    assert drawn["test"][-2:] == ["1", "█" * (BAR // 3)]
    assert drawn["brief"][-2:] == ["2", "█" * BAR] and drawn["(none)"][-1] == "█" * (BAR // 2)
    assert "a long name of an attri…" in text


def test_what_is_unfinished_lost_or_more_than_is_shown_is_said(store: Path) -> None:
    description = describe_store(store)
    description |= {"unfinished_job": True, "shards_of_unfinished_job": 3}
    table = description["tables"]["rows"]
    table["attributes"] = {f"attribute {n}": 1 for n in range(40)}
    table["account"] = {"refused": 1234, "failed_pairs": 0}
    text = "\n".join(draw_store(description))
    assert "3 of its shards are here" in text
    assert "and 20 more; --json has them all" in text
    assert "account     1,234 refused\n" in text + "\n"
    description["tables"] = {}
    assert "none yet; micro-rm embed writes one" in "\n".join(draw_store(description))


def test_bars_names_and_sizes() -> None:
    shares = [(0, 4), (2, 4), (1, 1000), (9, 4), (1, 0)]
    assert [bar(value, most, width=4) for value, most in shares] == ["", "██", "▏", "████", "▏"]
    assert padded("abc", 5) == "abc  " and padded("abcdef", 5) == "abcd…"
    sizes = ["0 bytes", "1023 bytes", "1.0 KiB", "3.0 MiB", "5120.0 TiB"]
    assert [format_bytes(n) for n in (0, 1023, 1024, 3 << 20, 5 << 50)] == sizes
