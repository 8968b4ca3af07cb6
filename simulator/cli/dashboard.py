"""``dashboard``: the what-if app in a browser."""

from __future__ import annotations

import os
from importlib.util import find_spec
from urllib.parse import urlencode

import click

from simulator.cli.scenarios import loaded, set_option
from simulator.errors import UserError


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@set_option
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address to listen on.  [default: 127.0.0.1, this machine alone]",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--no-browser", is_flag=True, help="Open no browser.")
def dashboard(
    file: str | None, overrides: tuple[str, ...], host: str, port: int, no_browser: bool
) -> None:
    """Open the what-if dashboard; Ctrl-C ends it.

    FILE is the scenario to start with: a YAML file or the name of a shipped one. There are no
    users and no passwords: whoever reaches the address may use the app.
    """
    if find_spec("streamlit") is None:
        raise UserError(
            "the dashboard needs Streamlit, which is not installed",
            hint="pip install 'servecast[dashboard]'",
        )
    if overrides and file is None:
        raise UserError("--set changes a scenario", hint="give its file or name as well")
    if file is not None:
        _start_with(file, overrides)
    _serve(host, port, no_browser)


def _serve(host: str, port: int, no_browser: bool) -> None:
    from dashboard.server import open_browser, serve
    from simulator.cli.listening import LOOPBACK, OWN_NAMES, address_of, listen

    def ready() -> None:
        click.echo(f"The dashboard is at {address}")
        if not no_browser:
            open_browser(address)

    address = address_of(host, port)
    with listen(host, port) as listening:
        alone = host.lower() in LOOPBACK
        if not alone:
            click.echo(
                f"Warning: everybody who reaches port {port} of {host} can use it; there are no"
                " passwords.",
                err=True,
            )
        hosts = OWN_NAMES if alone else None
        try:
            serve(listening, hosts=hosts, ready=ready)
        except KeyboardInterrupt:  # how it is meant to end
            click.echo()


def _start_with(file: str, overrides: tuple[str, ...]) -> None:
    """Tells the app which scenario to show first; wrong ones are told here."""
    from dashboard.choice import FILES, START, Choice
    from simulator.scenario import dump_scenario
    from simulator.scenario.confined import scenario_files
    from simulator.scenario.shipped import scenario_names

    with loaded(file, overrides) as scenario:
        choice = Choice(file, sets=overrides)
        named = scenario_files(scenario)
    if file not in scenario_names():
        with loaded(file, ()) as scenario:
            name = f"{scenario.name}.yaml" if file == "-" else os.path.basename(file)
            choice = Choice(name, dump_scenario(scenario), overrides)
            named += scenario_files(scenario)
    os.environ[FILES] = os.pathsep.join(map(str, named))
    os.environ[START] = urlencode(choice.to_query(), doseq=True)
