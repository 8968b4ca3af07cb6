"""The comparison in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.validate.engine import tables
from calibration.validate.engine.run import EngineValidation
from calibration.validate.terminal import print_table

if TYPE_CHECKING:
    from rich.console import Console


def render(outcome: EngineValidation, console: Console) -> None:
    """Prints what ran where, a block for each rate, and errors of steps."""
    from rich.text import Text

    console.print(f"\n[bold]{outcome.scenario.name}[/], for real and predicted")
    for name, text in tables.facts(outcome):
        if text:
            console.print(Text(f"  {name + ':':<15}{text}"))
    for text in tables.warnings(outcome):
        console.print(Text(text, style="yellow"))
    console.print()
    for compared in outcome.loads:
        print_table(console, tables.title(compared), tables.LOAD_HEAD, tables.load_rows(compared))
    print_table(
        console, "Step times, of all rates", tables.STEPS_HEAD,
        tables.step_rows(outcome.step_errors),
    )  # fmt: skip
