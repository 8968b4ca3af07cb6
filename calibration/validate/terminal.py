"""The validation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calibration.validate import tables
from calibration.validate.metrics import DIMENSIONS, TITLES, measured, repeated
from calibration.validate.runner import Validation

if TYPE_CHECKING:
    from rich.console import Console


def render(validation: Validation, console: Console) -> None:
    """Prints errors in all and by every dimension, the worst points, and what was left out."""
    found = validation.comparisons
    count = len(found)
    console.print(f"\n[bold]{validation.dataset}[/]: {count:,} points simulated, "
                  f"{len(validation.skipped):,} rows left out")  # fmt: skip
    twice = repeated([c.point for c in found])
    if twice:
        console.print(f"{twice:,} of the points repeat the figures of another one and count twice.")
    if not count:
        _left_out(validation, console)
        return
    console.print("Errors are |predicted − measured| / measured; bias is the median of predicted / "
                  "measured.\n")  # fmt: skip
    print_table(console, "In all", tables.OVERALL_HEAD, tables.overall(found))
    for dimension in DIMENSIONS:
        print_table(
            console,
            f"Median error by {dimension}",
            tables.head(found),
            tables.breakdown(found, dimension),
        )
    print_table(
        console, "Within the interval, by split", tables.COVERAGE_HEAD, tables.coverage(found)
    )
    spread = tables.distributions(found)
    if spread:
        head = ("", "measured ms", "predicted ms", "error")
        print_table(console, "Distributions", head, spread)
    for metric in measured(found):
        rows = [
            (w.what, f"{w.measured:,.1f}", f"{w.predicted:,.1f}", f"{w.operator} {w.share:.0%}")
            for w in tables.worst_rows(found, metric)
        ]
        if rows:
            head = ("", "measured", "predicted", "mostly")
            print_table(console, f"Furthest off: {TITLES[metric]}", head, rows)
    _left_out(validation, console)


def _left_out(validation: Validation, console: Console) -> None:
    rows = [(reason, str(count)) for reason, count in tables.reasons(validation.skipped)]
    if rows:
        print_table(console, "Left out", ("", "rows"), rows)


def print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """A titled table with its first column to the left and the others to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()
