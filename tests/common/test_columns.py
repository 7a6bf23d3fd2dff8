"""Tables in a terminal: every column is shown whole, whatever the width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from micro_rm.common.columns import Column, Columns

NAMES = ["single_bt", "static_mixture", "shared_base_converged", "micro", "我的方法"]
TABLE = Columns(
    [Column("accuracy", ["[red]", "polite"]), Column("n", ["40", "40"])],
    [Column(name, [Text(f"0.{index}23"), "0.500"]) for index, name in enumerate(NAMES)],
)


def shown(width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(TABLE)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_wide_terminal_shows_one_table() -> None:
    lines = shown(100)
    assert len(lines) == 3
    assert lines[0].split() == ["accuracy", "n", *NAMES]
    assert lines[1].split() == ["[red]", "40", "0.023", "0.123", "0.223", "0.323", "0.423"]


@pytest.mark.parametrize("width", [36, 80])
def test_a_narrow_one_shows_every_column_below_its_row_names(width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    words = " ".join(lines).split()
    for name in NAMES:
        assert words.count(name) == 1
    blocks = words.count("accuracy")
    assert blocks == words.count("polite") == words.count("[red]") == lines.count("") + 1
    assert blocks == len(TABLE.blocks(width)) and (blocks > 1) == (width < 80)


def test_a_column_wider_than_the_terminal_is_folded_not_cut() -> None:
    stream = io.StringIO()
    table = Columns([Column("a", ["x"])], [Column("b" * 30, ["y"]), Column("c", ["z"])])
    Console(file=stream, width=20).print(table)
    assert stream.getvalue().count("b") == 30 and "z" in stream.getvalue()
