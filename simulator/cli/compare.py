"""``compare``: two deployments side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from simulator.cli.output import ProgressBar, console, echo_json
from simulator.cli.scenarios import json_option, loaded, set_option
from simulator.errors import UserError


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@set_option
@click.option("--all", "everything", is_flag=True, help="Show every figure.")
@json_option
def compare(a: str, b: str, overrides: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Show what differs between two runs.

    A and B are folders that `simulate run` wrote, or scenarios (files or shipped names), which are
    simulated first. --set applies to the scenarios.
    """
    from simulator.results import compare as compare_results

    if overrides and _is_saved(a) and _is_saved(b):
        raise UserError("--set changes scenarios, but A and B are results")
    first, second = _summary(a, overrides), _summary(b, overrides)
    rows = compare_results(first, second)
    if as_json:
        echo_json({"a": a, "b": b, "metrics": [row.as_dict() for row in rows]})
        return
    from simulator.results.comparison import matters
    from simulator.results.terminal import render_comparison

    shown = [row for row in rows if everything or matters(row.key, row.better)]
    render_comparison(shown, console(), (_label(a), _label(b)))


def _is_saved(reference: str) -> bool:
    return Path(reference).is_dir() or reference.endswith(".json")


def _summary(reference: str, overrides: Sequence[str]) -> dict[str, Any]:
    from simulator.results import Result
    from simulator.simulation import simulate

    if _is_saved(reference):
        return Result.load(reference).summary()
    with loaded(reference, overrides) as scenario, ProgressBar() as progress:
        result = simulate(scenario, progress=progress)
    if result.record.interrupted:
        raise click.Abort
    return result.summary()


def _label(reference: str) -> str:
    path = Path(reference)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name or reference
