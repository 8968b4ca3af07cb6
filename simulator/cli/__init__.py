"""The ``simulate`` command. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import click

from simulator import __version__
from simulator.cli.break_even import break_even
from simulator.cli.calibrate import calibrate
from simulator.cli.compare import compare
from simulator.cli.dashboard import dashboard
from simulator.cli.describe import list_names
from simulator.cli.explain import explain_command
from simulator.cli.features import features
from simulator.cli.fit import fit
from simulator.cli.launch import export_files, import_files
from simulator.cli.load import load_command
from simulator.cli.measured import measured
from simulator.cli.plan import plan
from simulator.cli.roofline import roofline_command
from simulator.cli.run import run
from simulator.cli.safely import SafeGroup
from simulator.cli.scenarios import check, init, schema
from simulator.cli.serve import serve
from simulator.cli.sweep import sweep
from simulator.cli.trace import trace
from simulator.cli.validate import validate

__all__ = ["cli", "main"]


@click.group(cls=SafeGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="simulate")
def cli(debug: bool) -> None:
    """Simulate the serving of large language models: latency, throughput, cost and energy.

    \b
    simulate run chat-8b-h100       a shipped scenario; `simulate list scenarios` shows all
    simulate init                   a commented scenario to start from
    simulate run my-scenario.yaml   your own
    """  # noqa: D301 - click wants the backspace itself


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


for command in (
    run, check, init, schema, trace, list_names, features, compare, plan, sweep, load_command,
    dashboard, serve, explain_command, roofline_command, break_even, export_files, import_files,
    calibrate, fit, validate, measured,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of the ``simulate`` command."""
    cli(prog_name="simulate")
