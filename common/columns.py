"""Terminal tables that never truncate: columns that do not fit are printed below the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

GAP = 2  # characters between two columns of a table without a frame


@dataclass(frozen=True)
class Column:
    """A column of a table: a heading, one cell per row, and whether it is left-aligned."""

    heading: str
    cells: Sequence[str | Text]
    left: bool = False

    @property
    def width(self) -> int:
        """Terminal cells that the column needs."""
        return max(cell_len(self.heading), *(cell_len(str(cell)) for cell in self.cells), 1)


@dataclass(frozen=True)
class Columns:
    """A table that rich prints in one block if it fits, else in several below each other.

    The ``repeated`` columns, such as the rows' names, stand in front of every block; ``others``
    are distributed over the blocks.
    """

    repeated: Sequence[Column]
    others: Sequence[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[object]:
        for number, block in enumerate(self.blocks(options.max_width)):
            if number:
                yield ""
            yield self._table(block)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def blocks(self, width: int) -> list[list[Column]]:
        """Distribute ``others`` over blocks of at most ``width`` cells, in order.

        A column that is too wide for any block gets one to itself; its text is folded.
        """
        # The last column of a block needs no gap behind it, hence one GAP more.
        capacity = width + GAP - sum(column.width + GAP for column in self.repeated)
        blocks: list[list[Column]] = [[]]
        remaining = capacity
        for column in self.others:
            if blocks[-1] and column.width + GAP > remaining:
                blocks.append([])
                remaining = capacity
            blocks[-1].append(column)
            remaining -= column.width + GAP
        return blocks

    def _table(self, block: Sequence[Column]) -> Table:
        table = Table(box=None, pad_edge=False)
        shown = [*self.repeated, *block]
        for number, column in enumerate(shown):
            side = "left" if column.left or number == 0 else "right"
            table.add_column(Text(column.heading), justify=side, overflow="fold")
        for cells in zip(*(column.cells for column in shown), strict=True):
            # As Text, because rich takes a name in brackets for markup.
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
        return table
