"""``plan``: the cheapest deployment that holds, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli import folder
from simulator.cli.output import console, echo_json
from simulator.cli.scenarios import json_option
from simulator.cli.working import WorkBar, Working, tell_dry_run, working_options
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.planner.document import Asked

NOTHING_HOLDS = 3
"""Exit code where no deployment holds."""


@click.command()
@click.argument("file", metavar="FILE", required=False)
@click.option("--dry-run", is_flag=True, help="Say how large the search is, and simulate nothing.")
@click.option("--metrics", is_flag=True, help="List the metrics that constraints may name.")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for the files; must be new or empty.  [default: servecast-results/NAME-N]",
)
@click.option("--no-files", is_flag=True, help="Write no files.")
@json_option
@working_options
@click.pass_context
def plan(
    ctx: click.Context,
    file: str | None,
    dry_run: bool,
    metrics: bool,
    out: str | None,
    no_files: bool,
    as_json: bool,
    working: Working,
) -> None:
    """Find the cheapest deployment that holds, or the best one in some other sense.

    FILE is a plan: a scenario's traffic, the deployments to choose from, what must hold and what is
    best. Simulations are kept in --store as they end: after an interruption the same command goes
    on. Exits with 3 where no deployment holds.
    """
    from simulator.planner.constraints import metric_paths

    if metrics:
        click.echo("\n".join(metric_paths()))
        return
    if file is None:
        raise UserError("name a plan file", hint="`simulate list plans` shows shipped ones")
    if no_files and out:
        raise UserError("--no-files leaves nothing for --out to do")
    to_files = not no_files and not dry_run and (out is not None or not as_json)
    if to_files:
        folder.check_free(out)

    from simulator.planner.document import load_plan

    asked = load_plan(file)
    try:
        if dry_run:
            _dry(asked, working, as_json)
            return
        report = _search(asked, working)
    except UserError as error:
        raise asked.located(error) from None
    files: list[Path] = []
    if to_files:
        from simulator.planner.report.files import write_plan

        files = folder.written(write_plan, report, folder.make(out, report["name"]))
    if as_json:
        echo_json(report)
    else:
        from simulator.planner.report.terminal import render_plan

        render_plan(report, console(), [str(path) for path in files])
    if report["winner"] is None:
        ctx.exit(NOTHING_HOLDS)


def _search(asked: Asked, working: Working) -> dict[str, Any]:
    from simulator.planner.plan import plan as search

    with WorkBar() as bar, working.open(bar) as work:
        return search(asked, work, told=bar.stage)


def _dry(asked: Asked, working: Working, as_json: bool) -> None:
    from simulator.planner.plan import dry_run

    found = dry_run(asked, working.count)
    tell_dry_run(found, as_json=as_json)
