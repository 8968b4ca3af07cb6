"""``run``: the simulation, what it says in the terminal, and the files it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli import folder, metrics_file
from simulator.cli.output import ProgressBar, console, echo_json
from simulator.cli.safely import INTERRUPTED
from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.results import Result


@click.command()
@scenario_argument
@set_option
@json_option
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for the files; must be new or empty.  [default: servecast-results/NAME-N]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT",
    help="Write json, parquet, csv, trace or report; repeatable.  [default: all but csv]",
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML report.")
@click.option("--no-files", is_flag=True, help="Write no files.")
@click.option(
    "--openmetrics",
    metavar="FILE",
    help="Write the metrics that a live server would tell Prometheus, over time.",
)
@click.option(
    "--metrics-step",
    type=float,
    metavar="SECONDS",
    help="Simulated time from one value to the next there.  [default: 15]",
)
@click.option(
    "--metrics-start",
    metavar="TIME",
    help="When the run began there: a date or Unix time.  [default: so that it ends now]",
)
@click.pass_context
def run(
    ctx: click.Context,
    file: str,
    overrides: tuple[str, ...],
    as_json: bool,
    out: str | None,
    formats: tuple[str, ...],
    no_report: bool,
    no_files: bool,
    openmetrics: str | None,
    metrics_step: float | None,
    metrics_start: str | None,
) -> None:
    """Simulate a scenario.

    FILE is a YAML file, the name of a shipped scenario, or - for standard input. With --json, files
    are written only if --out says where. Ctrl-C ends the run early and keeps what was simulated.
    """
    if no_files and (out or formats):
        raise UserError("--no-files leaves nothing for --out or --format to do")
    began = metrics_file.check(openmetrics, metrics_step, metrics_start)
    to_files = not no_files and (out is not None or not as_json)
    if to_files:
        folder.check_free(out)

    from simulator.simulation import simulate

    with loaded(file, overrides) as scenario, ProgressBar() as progress:
        wanted = _wanted(formats, no_report)
        result = simulate(scenario, progress=progress)
    saved: Path | None = None
    files: list[Path] = []
    problem: UserError | None = None
    if to_files:
        try:
            saved = folder.make(out, scenario.name)
            files = _save(result, saved, wanted)
        except UserError as error:  # told after the result, which would be lost otherwise
            problem = error
    if openmetrics is not None:
        step_s = 15.0 if metrics_step is None else metrics_step
        try:
            files.append(metrics_file.write(result, openmetrics, step_s, began))
        except UserError as error:
            problem = problem or error
    if as_json:
        echo_json(result.summary())
    else:
        from simulator.results.terminal import render

        render(result, console(), [str(file) for file in files])
    if result.record.interrupted:
        click.echo(_interrupted(result, saved), err=True)
        ctx.exit(INTERRUPTED)
    if problem is not None:
        raise problem


def _wanted(formats: tuple[str, ...], no_report: bool) -> list[str]:
    """Which files to write."""
    from simulator.results import DEFAULT_FORMATS, FORMATS
    from simulator.sentences import closest

    for name in formats:
        if name not in FORMATS:
            near = closest(name, FORMATS)
            raise UserError(
                f"must be one of {', '.join(FORMATS)}",
                where=f"--format {name}",
                hint=f"did you mean '{near}'?" if near else "",
            )
    return [name for name in formats or DEFAULT_FORMATS if not (no_report and name == "report")]


def _save(result: Result, path: Path, formats: list[str]) -> list[Path]:
    try:
        return result.save(path, formats)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None
    except KeyboardInterrupt:
        click.echo(f"Interrupted while writing: files in {path} may be incomplete.", err=True)
        raise SystemExit(INTERRUPTED) from None


def _interrupted(result: Result, saved: Path | None) -> str:
    from simulator.results.record import UNFINISHED

    ended = int((result.record.outcome != UNFINISHED).sum())
    kept = f"what was simulated is in {saved}" if saved else "no files were written"
    return (
        f"Interrupted after {ended:,} of {len(result.record.outcome):,} requests and "
        f"{result.record.end_s:,.1f} simulated seconds; {kept}."
    )
