"""``break-even``: a run compared with other ways of paying for the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from simulator.cli.output import ProgressBar, console, echo_json
from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option
from simulator.cli.working import WorkBar, Working, working_options
from simulator.errors import ScenarioError, UserError

if TYPE_CHECKING:
    from simulator.scenario import Scenario


@click.command("break-even")
@scenario_argument
@set_option
@click.option("--economics", metavar="FILE", help="YAML file with prices to compare with.")
@click.option(
    "--given",
    multiple=True,
    metavar="PATH=VALUE",
    help="One price, e.g. --given api.usd_per_million_output_tokens=0.9; repeatable.",
)
@click.option(
    "--search",
    is_flag=True,
    help="Find what a replica can serve by simulating heavier traffic, for the API's break-even.",
)
@json_option
@working_options
def break_even(
    file: str,
    overrides: tuple[str, ...],
    economics: str | None,
    given: tuple[str, ...],
    search: bool,
    as_json: bool,
    working: Working,
) -> None:
    """Compare a deployment with other ways of paying: reserved, spot, own devices, an API.

    FILE is a YAML file, the name of a shipped scenario, or - for standard input; it is simulated.
    Prices of rented devices come from the hardware profile unless they are given; own devices and
    an API are compared if their prices are given, in the --economics file or by --given.
    """
    from simulator.planner.economy.break_even import break_even as compare
    from simulator.planner.economy.break_even import load_economics
    from simulator.simulation import simulate

    asked = load_economics(economics, given)
    if search and asked.api is None:
        raise UserError("--search is for the break-even with an API", hint="give its prices")
    with loaded(file, overrides) as scenario:
        capacity = _searched(scenario, working) if search else None
        with ProgressBar() as progress:
            result = simulate(scenario, progress=progress)
        if result.record.interrupted:
            raise click.Abort
        report = compare(result, asked, capacity)
    if as_json:
        echo_json(report)
        return
    from simulator.planner.economy.break_even_terminal import render_break_even

    render_break_even(report, console())


def _searched(scenario: Scenario, working: Working) -> tuple[float, float, float]:
    """Most requests/s of one replica within the SLO: least, found and most (80%)."""
    from simulator.planner.loads.highest import highest_rate

    if scenario.deployment.autoscaling is not None or scenario.deployment.pools:
        raise ScenarioError(
            "--search needs a fixed number of replicas of one kind",
            where="deployment",
            hint="--set deployment.autoscaling=null --set deployment.replicas=1",
        )
    with WorkBar() as bar, working.open(bar) as work:
        found = highest_rate(scenario, [], work)
    if found.rate_per_s is None or found.factor is None:
        raise UserError(f"no capacity was found: {found.verdict}")
    rate = found.rate_per_s / scenario.deployment.replicas
    low, high = found.by_prediction or (1.0, 1.0)
    return rate * low, rate, rate * high
