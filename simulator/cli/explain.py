"""``explain``: what binds, what requests wait for, and what one change would do."""

from __future__ import annotations

import click

from simulator.cli.output import console, echo_json
from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option
from simulator.cli.working import WorkBar, Working, working_options
from simulator.errors import UserError

SEEDS = 3


@click.command("explain")
@scenario_argument
@set_option
@click.option("--quick", is_flag=True, help="Try every change with one seed's traffic only.")
@click.option(
    "--highest",
    is_flag=True,
    help="Look for the highest rate that holds the SLO with every change as well.",
)
@click.option("--no-changes", is_flag=True, help="Try no changes: say what binds.")
@json_option
@working_options
def explain_command(
    file: str,
    overrides: tuple[str, ...],
    quick: bool,
    highest: bool,
    no_changes: bool,
    as_json: bool,
    working: Working,
) -> None:
    """Explain a deployment: what binds, what requests wait for, what one change would do.

    FILE is a scenario: a YAML file, the name of a shipped one, or - for standard input. Every
    change of the deployment that makes sense is simulated, one at a time, with the same traffic.
    """
    from simulator.planner.explanation.explain import explain

    if highest and no_changes:
        raise UserError("--no-changes leaves nothing for --highest to do")
    seeds = 0 if no_changes else 1 if quick else SEEDS
    with loaded(file, overrides) as scenario, WorkBar() as bar, working.open(bar) as work:
        found = explain(scenario, work, seeds=seeds, highest=highest, told=bar.stage).as_dict()
    if as_json:
        echo_json(found)
        return
    from simulator.planner.explanation.explain_terminal import render_explanation

    render_explanation(found, console())
