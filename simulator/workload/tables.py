"""Tables over time as CSV: one row an interval, which lasts until the next row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.errors import TraceError
from simulator.workload.columns import bad_value, numbers, stamps
from simulator.workload.formats import split_row, split_rows
from simulator.workload.lines import LineBlock, read_blocks
from simulator.workload.requests import Floats
from simulator.workload.shipped import find_table

MAX_ROWS = 1_000_000
"""Rows of one table: two years of minutes."""

CLOCKS = ("start_s", "timestamp")


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file with a header, as text, and the times at which its ``n`` rows begin.

    Args:
        name: what the user called it.
        columns: texts of each column, n of each.
        lines: line number of each row.
        start_s: (n,) ascending, since the first row.
    """

    name: str
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    start_s: Floats

    def column(self, name: str, expected: str) -> Floats:
        """A column of finite numbers, none negative. Shape (n,)."""
        return numbers(self.columns[name], self.lines, name, self.name, expected)

    def end_s(self, given: float | None) -> float:
        """When the last interval ends: as given, or as long after its start as the one before it.

        Raises:
            TraceError: a single row, or an end before the last row.
        """
        start_s = self.start_s
        if given is None:
            if len(start_s) == 1:
                raise TraceError(
                    "the table has one row, so nothing says how long it lasts",
                    where=f"{self.name}:{self.lines[0]}",
                    hint="give end_s",
                )
            return float(2 * start_s[-1] - start_s[-2])
        if given <= start_s[-1]:
            raise TraceError(
                f"the table's last row begins {start_s[-1]:g} s after its first, at or after "
                f"end_s ({given:g})",
                where=f"{self.name}:{self.lines[-1]}",
                hint="raise end_s or leave it out",
            )
        return given


def read_table(name: str, base: Path | None = None) -> Table:
    """The table ``name``: a shipped one, or a CSV file relative to ``base``.

    Raises:
        UnknownNameError: there is no such table.
        TraceError: it cannot be read, has no rows or too many, no column of times, or times that
            do not ascend.
    """
    blocks = _bounded(name, base)
    if not blocks:
        raise TraceError("the file is empty", where=name, hint="expected one interval a line")
    where = f"{name}:{blocks[0].numbers[0]}"
    header = [column.strip() for column in split_row(blocks[0].lines[0], where)]
    if len(set(header)) < len(header):
        raise TraceError("two columns have the same name", where=where)
    blocks[0] = LineBlock(blocks[0].lines[1:], blocks[0].numbers[1:])
    lines = [number for block in blocks for number in block.numbers]
    if not lines:
        raise TraceError("the file has no rows", where=name, hint="expected one interval a line")
    columns: dict[str, list[str]] = {column: [] for column in header}
    for texts, rows in blocks:
        if texts:
            parts = split_rows(texts, rows, len(header), name)
            for column, values in zip(header, parts, strict=True):
                columns[column].extend(values)
    return Table(name, columns, lines, _starts(columns, lines, name, where))


def _bounded(name: str, base: Path | None) -> list[LineBlock]:
    """All lines that are not blank; reading stops where they are too many."""
    blocks, rows = [], -1  # the header is none
    for block in read_blocks(find_table(name, base), name):
        rows += len(block.lines)
        if rows > MAX_ROWS:
            raise TraceError(
                f"the table has more than {MAX_ROWS:,} rows",
                where=name,
                hint="use longer intervals",
            )
        if block.lines:
            blocks.append(block)
    return blocks


def _starts(
    columns: Mapping[str, Sequence[str]], lines: list[int], name: str, where: str
) -> Floats:
    clock = next((column for column in CLOCKS if column in columns), None)
    if clock is None:
        raise TraceError(
            f"the columns are '{','.join(columns)[:120]}'",
            where=where,
            hint=f"expected {' or '.join(CLOCKS)} for the times at which intervals begin",
        )
    start_s: Floats
    if clock == "start_s":
        times = numbers(columns[clock], lines, clock, name, "seconds")
        start_s = times - times[0]
    else:
        nanoseconds = stamps(columns[clock], lines, clock, name)
        start_s = np.asarray((nanoseconds - nanoseconds[0]) / 1e9, dtype=np.float64)
    back = np.flatnonzero(np.diff(start_s) <= 0)
    if len(back):
        i = int(back[0]) + 1
        raise bad_value(name, lines[i], clock, columns[clock][i], "a time after the row before")
    return start_s
