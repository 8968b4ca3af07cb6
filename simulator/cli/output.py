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


class Bar:
    """How far something is, on stderr: only on a terminal, and only once it has taken a moment.

    Args:
        what: what is counted (``requests``), and what follows it.
        patience_s: how long nothing is shown.
        stays: the bars are left there in the end.
        remaining: whether the time left is worked out from the counts so far.
    """

    def __init__(
        self,
        what: str = "",
        *,
        patience_s: float = 1.0,
        stays: bool = False,
        remaining: bool = True,
    ) -> None:
        self._what, self._patience_s = what, patience_s
        self._stays, self._remaining = stays, remaining
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
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

    def show(self, title: str, done: int, total: int, note: str = "", *, line: str = "") -> None:
        """Reports ``done`` of ``total``; ``line`` tells bars apart where there are several."""
        if not self._wanted or time.monotonic() - self._began < self._patience_s:
            return
        if self._bar is None:
            self._bar = self._start()
        if line not in self._tasks:
            self._tasks[line] = self._bar.add_task(title, total=total, note=note)
        self._bar.update(
            self._tasks[line], description=title, completed=done, total=total, note=note
        )

    def _start(self) -> Progress:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        if self._what:
            columns.append(TextColumn(f"{self._what} · {{task.fields[note]}}"))
        if self._remaining:
            columns.append(TimeRemainingColumn())
        bar = Progress(*columns, console=console(stderr=True), transient=not self._stays)
        bar.start()
        return bar


class ProgressBar(Bar):
    """Of one simulation."""

    def __init__(self) -> None:
        super().__init__("requests")

    def __call__(self, done: int, total: int, clock_s: float) -> None:
        """Reports ``done`` of ``total`` requests at simulated second ``clock_s``."""
        self.show("Simulating", done, total, f"simulated {clock_s:,.0f} s ·")
