"""``load``: latency and throughput as the load grows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from simulator.cli import folder
from simulator.cli.output import console, echo_json
from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option
from simulator.cli.working import WorkBar, Working, working_options
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.planner.constraints import Constraint
    from simulator.scenario import Scenario

_LIMIT = re.compile(
    r"(?:(?P<cls>[^:<>=]+):\s*)?(?P<metric>[\w.]+)\s*(?P<sign><=|>=|≤|≥)\s*(?P<to>\S+)"
)


@click.command("load")
@scenario_argument
@set_option
@click.option(
    "--metric",
    default="e2e_ms.mean",
    metavar="METRIC",
    help="Latency whose knee is looked for, e.g. ttft_ms.p99.  [default: e2e_ms.mean]",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="LIMIT",
    help="What the highest rate must hold, e.g. 'ttft_ms.p99<=1000', of one class with "
    "'chat:ttft_ms.p99<=1000'; repeatable.  [default: the scenario's SLO]",
)
@click.option("--quick", is_flag=True, help="Fewer points, and no interval of the highest rate.")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for the files; must be new or empty.  [default: servecast-results/NAME-N]",
)
@click.option("--no-files", is_flag=True, help="Write no files.")
@json_option
@working_options
def load_command(
    file: str,
    overrides: tuple[str, ...],
    metric: str,
    limits: tuple[str, ...],
    quick: bool,
    out: str | None,
    no_files: bool,
    as_json: bool,
    working: Working,
) -> None:
    """Show latency and throughput as the load grows, where the knee is and what rate still holds.

    FILE is a scenario: a YAML file, the name of a shipped one, or - for standard input. Its traffic
    is scaled from a tenth of what saturates the deployment to beyond that.
    """
    if no_files and out:
        raise UserError("--no-files leaves nothing for --out to do")
    to_files = not no_files and (out is not None or not as_json)
    if to_files:
        folder.check_free(out)
    constraints = [parse_limit(text) for text in limits]
    with loaded(file, overrides) as scenario:
        report = _report(scenario, constraints, metric, quick=quick, working=working)
    files = _save(report, out) if to_files else []
    if as_json:
        echo_json(report)
        return
    from simulator.planner.loads.load_terminal import render_load

    render_load(report, console(), files)


def _report(
    scenario: Scenario,
    constraints: list[Constraint],
    metric: str,
    *,
    quick: bool,
    working: Working,
) -> dict[str, Any]:
    from simulator.planner.loads.load import load_report

    with WorkBar() as bar, working.open(bar) as work:
        return load_report(scenario, constraints, metric, work, quick=quick)


def _save(report: dict[str, Any], out: str | None) -> list[str]:
    from simulator.planner.loads.load_files import write_load

    path = folder.make(out, f"{report['name']}-load")
    try:
        return [str(file) for file in write_load(report, path)]
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None


def parse_limit(text: str) -> Constraint:
    """``[CLASS:]METRIC<=NUMBER`` or ``>=``.

    Raises:
        UserError: it is something else, or there is no such metric.
    """
    from pydantic import ValidationError

    from simulator.planner.constraints import Constraint

    where = f"--limit {text}"
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        raise UserError(
            "must be a metric, <= or >=, and a number", where=where,
            hint="such as --limit 'ttft_ms.p99<=1000'",
        )  # fmt: skip
    try:
        number = float(found["to"])
    except ValueError:
        raise UserError(f"{found['to']!r} is no number", where=where) from None
    side = "max" if found["sign"] in ("<=", "≤") else "min"
    try:
        return Constraint.model_validate(
            {"metric": found["metric"], side: number, "traffic_class": found["cls"]}
        )
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(what, where=where) from None
