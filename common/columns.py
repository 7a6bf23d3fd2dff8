"""Tables for a terminal that never cut a column: what does not fit beside it goes below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Between two columns of a table without a frame.
GAP = 2


@dataclass(frozen=True)
class Column:
    """A heading and one cell per row."""

    heading: str
    cells: Sequence[str | Text]
    left: bool = False

    @property
    def width(self) -> int:
        """Cells that the column needs."""
        return max(cell_len(self.heading), *(cell_len(str(cell)) for cell in self.cells), 1)


@dataclass(frozen=True)
class Columns:
    """Columns that belong to rows, ``repeated`` ones in front of every block.

    Printed as one table where the terminal is wide enough, else as several below each other.
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
        """The other columns in blocks that fit; a column wider than the rest has its own."""
        room = width + GAP - sum(column.width + GAP for column in self.repeated)
        blocks: list[list[Column]] = [[]]
        left = room
        for column in self.others:
            if blocks[-1] and column.width + GAP > left:
                blocks.append([])
                left = room
            blocks[-1].append(column)
            left -= column.width + GAP
        return blocks

    def _table(self, block: Sequence[Column]) -> Table:
        table = Table(box=None, pad_edge=False)
        shown = [*self.repeated, *block]
        for number, column in enumerate(shown):
            side = "left" if column.left or number == 0 else "right"
            table.add_column(Text(column.heading), justify=side, overflow="fold")
        for cells in zip(*(column.cells for column in shown), strict=True):
            # Never as markup: a name may stand in brackets.
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
        return table
