"""Terminal, JSON and progress."""

from __future__ import annotations

import json
import re
import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TextIO, cast

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


PIPED_COLUMNS = 100
"""Width of what goes to a file or a pipe."""

PIPED_TABLE_COLUMNS = 160
"""The same for tables with a column of text."""


def console(*, stderr: bool = False, piped: int = PIPED_COLUMNS) -> Console:
    """A rich console, ``piped`` columns wide where there is no terminal, that lets a closed pipe
    through as an error."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return PipeConsole(stderr=stderr, highlight=False)
    return PipeConsole(file=cast(IO[str], _Trimmed(stream)), highlight=False, width=piped)


class _Trimmed:
    """A stream without the blanks with which tables fill their lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r"[ ]+(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def echo_json(document: Any) -> None:
    """The one JSON document of a command, on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def echo_table(
    columns: list[str],
    rows: list[list[str]],
    *,
    numbers: set[str] | None = None,
    header: bool = True,
    wrap_first: bool = False,
) -> None:
    """A plain table; the columns in ``numbers`` are set to the right, and the first one keeps its
    lines whole unless ``wrap_first``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD if header else None,
        padding=(0, 2, 0, 0),
        collapse_padding=True,
        show_edge=False,
        show_header=header,
    )
    for position, column in enumerate(columns):
        right = column in (numbers or set())
        keep = right or (position == 0 and not wrap_first)
        table.add_column(
            column, justify="right" if right else "left", no_wrap=keep, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console(piped=PIPED_TABLE_COLUMNS).print(table)


class ProgressBar:
    """A bar on stderr, shown only on a terminal and only once a run has taken a second."""

    PATIENCE_S = 1.0

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, clock_s: float) -> None:
        """Report ``done`` of ``total`` requests at simulated second ``clock_s``."""
        if not self._wanted or time.monotonic() - self._began < self.PATIENCE_S:
            return
        if self._bar is None or self._task is None:
            self._bar, self._task = _start_bar(total)
        self._bar.update(self._task, completed=done, total=total, clock=f"{clock_s:,.0f} s")


def _start_bar(total: int) -> tuple[Progress, TaskID]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("Simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests · simulated {task.fields[clock]} ·"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=total, clock="0 s")
    bar.start()
    return bar, task
