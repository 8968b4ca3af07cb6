"""``sweep``: every combination of some values, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from simulator.cli import folder
from simulator.cli.output import console, echo_json
from simulator.cli.scenarios import json_option, set_option
from simulator.cli.working import WorkBar, Working, tell_dry_run, working_options
from simulator.errors import UserError


@click.command()
@click.argument("file", metavar="FILE")
@set_option
@click.option(
    "--vary",
    "varied",
    multiple=True,
    metavar="PATH=A,B,…",
    help="Values of one key to try, e.g. --vary parallelism.tp=1,2,4; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say how many simulations it takes, and stop.")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for the files; must be new or empty.  [default: servecast-results/NAME-N]",
)
@click.option("--no-files", is_flag=True, help="Write no files.")
@json_option
@working_options
def sweep(
    file: str,
    overrides: tuple[str, ...],
    varied: tuple[str, ...],
    dry_run: bool,
    out: str | None,
    no_files: bool,
    as_json: bool,
    working: Working,
) -> None:
    """Simulate every combination of some values.

    FILE is a scenario, with --vary for each axis, or a plan, whose space is then simulated as a
    whole. What lies on a Pareto front is marked.
    """
    if no_files and out:
        raise UserError("--no-files leaves nothing for --out to do")
    to_files = not no_files and not dry_run and (out is not None or not as_json)
    if to_files:
        folder.check_free(out)
    name, points, limits = _points(file, overrides, varied)
    if dry_run:
        _dry(name, points, working, as_json)
        return

    from simulator.planner.sweep import sweep as simulate_all

    with WorkBar() as bar, working.open(bar) as work:
        report = simulate_all(points, work, name=name, limits=limits)
    files: list[Path] = []
    if to_files:
        from simulator.planner.report.files import write_sweep

        files = folder.written(write_sweep, report, folder.make(out, f"{name}-sweep"))
    if as_json:
        echo_json(report)
        return
    from simulator.planner.report.terminal import render_sweep

    render_sweep(report, console(), [str(path) for path in files])


def _points(file: str, overrides: tuple[str, ...], varied: tuple[str, ...]) -> tuple[str, Any, Any]:
    from simulator.planner.document import is_plan, load_plan
    from simulator.planner.sweep import points_of_plan, points_of_values
    from simulator.scenario import load_scenario

    if is_plan(file):
        if varied or overrides:
            raise UserError(
                "a plan has its axes in its space", where=f"--{'vary' if varied else 'set'}",
                hint="give a scenario, or change the plan's space",
            )  # fmt: skip
        asked = load_plan(file)
        try:
            return asked.plan.name, points_of_plan(asked), asked.plan.constraints
        except UserError as error:
            raise asked.located(error) from None
    if not varied:
        raise UserError("nothing varies", hint="give --vary PATH=A,B,… or a plan")
    points = points_of_values(file, overrides, varied)
    return load_scenario(file, overrides).name, points, ()


def _dry(name: str, points: Any, working: Working, as_json: bool) -> None:
    from simulator.planner.jobs.estimate import estimate
    from simulator.planner.jobs.tasks import Task

    tasks = [Task(point.scenario) for point in points if point.scenario is not None]
    found = {
        "name": name,
        "points": len(points),
        "simulations": len(tasks),
        "estimated_s": estimate(tasks, working.count),
        "workers": working.count,
    }
    tell_dry_run(found, as_json=as_json)
