"""Labelled lines and tables that fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LABEL = 11
_GAP = 2
_NARROWEST = 40
"""Of a column of text that has to wrap."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        title: may have a second line, for the unit.
        cells: one a row.
        left: of text, set to the left; else of numbers.
        optional: left out where there is no room, the last ones first.
    """

    title: str
    cells: Sequence[str]
    left: bool = False
    optional: bool = False

    @property
    def width(self) -> int:
        """Of its longest line."""
        return max(map(len, [*self.title.split("\n"), *self.cells]), default=0)


def lines(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """A label and a text a line; what is too long goes on below itself, not below the label."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in pairs:
        grid.add_row(Text(label), Text(text))
    if grid.row_count:
        console.print(grid)


def fitted(console: Console, columns: Sequence[Column], wraps: int) -> None:
    """A table no wider than the console.

    Args:
        console: it is printed to.
        columns: all of them; optional ones are left out until the rest fits.
        wraps: position of the column that may wrap.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    kept = list(columns)
    long = columns[wraps]
    while _least(kept, long) > console.width and (out := _last_optional(kept)) is not None:
        kept.remove(out)
    tight = _least(kept, long) > console.width  # nothing is left to leave out
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, _GAP, 0, 0), collapse_padding=True, show_edge=False
    )
    for column in kept:
        table.add_column(
            Text(column.title),
            justify="left" if column.left else "right",
            no_wrap=not (column is long or (tight and column.left)),
            overflow="fold",
            vertical="top",
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _least(columns: Sequence[Column], long: Column) -> int:
    """Columns of the screen that a table needs."""
    texts = [column for column in columns if column is not long]
    own = min(long.width, _NARROWEST)
    return (
        own + sum(column.width for column in texts) + (_GAP + 1) * len(columns)
    )  # and a blank of the box


def _last_optional(columns: Sequence[Column]) -> Column | None:
    return next((column for column in reversed(columns) if column.optional), None)
