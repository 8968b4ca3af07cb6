"""The load curve in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simulator.planner.loads.load_words import highest_lines, knee_line, marks
from simulator.results.format import milliseconds, money, number, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Report = dict[str, Any]

_Show = Callable[[float | None], str]

_COLUMNS: tuple[tuple[str, str, _Show], ...] = (
    ("TTFT p50", "latency.ttft_ms.p50", milliseconds),
    ("p99", "latency.ttft_ms.p99", milliseconds),
    ("TPOT p50", "latency.tpot_ms.p50", milliseconds),
    ("p99", "latency.tpot_ms.p99", milliseconds),
    ("E2E p50", "latency.e2e_ms.p50", milliseconds),
    ("p99", "latency.e2e_ms.p99", milliseconds),
    ("tokens/s", "throughput.output_tokens_per_s", number),
    ("goodput", "slo.goodput_requests_per_s", number),
    ("KV use", "kv_cache.use_mean", percent),
    ("batch", "scheduling.batch_size_mean", number),
    ("$/M out", "cost.usd_per_million_output_tokens", money),
)
_GAP = 3
"""Columns between two columns."""

_LEFT_OUT_FIRST = ("KV use", "$/M out", "goodput", "batch", "tokens/s")
"""Where the lines are too narrow for all."""


def render_load(report: Report, console: Console, files: Sequence[str] = ()) -> None:
    """Prints the curve, its knee and the highest load that holds."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(report["name"], style="bold"))
    if report["description"]:
        console.print(Text(report["description"], style="dim"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=11, no_wrap=True)
    grid.add_column(overflow="fold")
    for title, line in [("Knee", knee_line(report["curve"])), *highest_lines(report)]:
        grid.add_row(Text(title, style="bold"), Text(line))
    console.print(grid)
    console.print()
    console.print(_table(report, console.width))
    for file in files:
        console.print(Text(f"Files        {file}"))


def _table(report: Report, width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    points = report["curve"]["points"]
    noted = marks(report)
    closed = points[0]["users"] is not None
    loads = [f"{p['users']:,}" if closed else number(p["rate_per_s"]) for p in points]
    shown = [column for column in _COLUMNS if any(p["figures"][column[1]] is not None
                                                  for p in points)]  # fmt: skip
    cells = {column: [column[2](p["figures"][column[1]]) for p in points] for column in shown}
    remarks = max(len(mark) for mark in noted)
    for name in ("", *_LEFT_OUT_FIRST):
        shown = [column for column in shown if column[0] != name]
        wide = [max(len(column[0]), *map(len, cells[column])) for column in shown]
        if sum(wide) + max(10, *map(len, loads)) + remarks + _GAP * (len(wide) + 2) <= width:
            break
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), collapse_padding=True, show_edge=False)
    table.add_column("users" if closed else "requests/s", justify="right", no_wrap=True)
    for title, *_ in shown:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row, (load, mark) in enumerate(zip(loads, noted, strict=True)):
        style = "dim" if not points[row]["keeps_up"] else ""
        values = [cells[column][row] for column in shown]
        table.add_row(load, *values, Text(mark, style="bold" if mark else ""), style=style)
    return table
