"""``serve``: the simulated deployment as a live server."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.scenarios import loaded, scenario_argument, set_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from emulator.service import Service
    from simulator.resolution.pools import ResolvedPool
    from simulator.scenario import Scenario

NEEDED = ("starlette", "uvicorn", "httptools")

CURL = (
    """curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' """
    """{key}-d '{{"messages": [{{"role": "user", "content": "Hello"}}], "stream": true}}'"""
)


@click.command()
@scenario_argument
@set_option
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address to listen on.  [default: 127.0.0.1, this machine alone]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one"
)
@click.option(
    "--speed",
    type=click.FloatRange(0.0, 1000.0, min_open=True),
    default=1.0,
    metavar="X",
    help="Simulated seconds a second.  [default: 1, real time]",
)
@click.option(
    "--api-key",
    envvar="SERVECAST_API_KEY",
    metavar="KEY",
    help="What requests must carry; better given as SERVECAST_API_KEY, which others cannot see.",
)
@click.option(
    "--served-model-name",
    "names",
    multiple=True,
    metavar="NAME",
    help="What clients call the model; repeatable.  [default: the scenario's name of it]",
)
@click.option(
    "--tokenizer",
    metavar="FILE",
    help="A tokenizer.json by which texts are counted.  [default: by a rule]",
)
@click.option("--faults", "faults_file", metavar="FILE", help="What goes wrong, and when: YAML.")
@click.option(
    "--faults-by-header",
    is_flag=True,
    help="Requests may ask for faults of their own and of replicas (X-Servecast-Fault).",
)
@click.option(
    "--record",
    metavar="FILE",
    help="Write the requests that come as a trace of JSON lines, to simulate the same again.",
)
@click.option(
    "--progress-s",
    type=click.FloatRange(0.0, 86400.0),
    default=10.0,
    show_default=True,
    metavar="S",
    help="So often a line on stderr says what goes on, if anything does; 0: never.",
)
@click.option(
    "--max-body-mb", type=click.IntRange(1, 1024), default=16, show_default=True, metavar="N"
)
@click.option(
    "--max-connections", type=click.IntRange(1, 65535), default=4096, show_default=True, metavar="N"
)
@click.option(
    "--client-timeout-s",
    type=click.FloatRange(0.1, 3600.0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Clients that take longer to send a request, or to take what is sent, are cut off.",
)
@click.option(
    "--drain-s",
    type=click.FloatRange(0.0, 3600.0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="So long answers under way may go on after Ctrl-C; again Ctrl-C ends them at once.",
)
def serve(
    file: str,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    speed: float,
    api_key: str | None,
    names: tuple[str, ...],
    tokenizer: str | None,
    record: str | None,
    faults_file: str | None,
    faults_by_header: bool,
    progress_s: float,
    max_body_mb: int,
    max_connections: int,
    client_timeout_s: float,
    drain_s: float,
) -> None:
    """Serve a scenario as an OpenAI-compatible server, in real time; Ctrl-C ends it.

    FILE is a YAML file, the name of a shipped scenario, or - for standard input. No model is run:
    answers are sentences about nothing, and come when the simulated deployment would give them.
    """
    if any(find_spec(module) is None for module in NEEDED):
        raise UserError(
            "the server needs packages that are not installed",
            hint="pip install 'servecast[serve]'",
        )
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
        raise UserError("must be printable ASCII, and not empty", where="--api-key")
    if any(not name for name in names):
        raise UserError("a name is empty", where="--served-model-name")
    from emulator.options import Options
    from emulator.recording import Recording
    from emulator.service import Service
    from emulator.tokens import by_rule, from_file
    from simulator.cli.listening import LOOPBACK, OWN_NAMES
    from simulator.live import LiveDeployment, load_faults

    _allow_files(max_connections)
    options = Options(
        speed=speed,
        api_key=api_key,
        names=names,
        max_body_bytes=max_body_mb << 20,
        max_connections=max_connections,
        client_timeout_s=client_timeout_s,
        drain_s=drain_s,
        progress_s=progress_s,
        faults_by_header=faults_by_header,
        hosts=OWN_NAMES if host.lower() in LOOPBACK else None,
    )
    with loaded(file, overrides) as scenario:
        counted = from_file(Path(tokenizer)) if tokenizer else by_rule()
        faults = load_faults(Path(faults_file)) if faults_file else None
        deployed = faults.applied_to(scenario) if faults else scenario
        deployment = LiveDeployment(deployed, crashes=faults_by_header)
        with ExitStack() as stack:
            recording = None
            if record is not None:
                recording = stack.enter_context(Recording(Path(record), deployment.classes))
            service = Service(deployment, options, counted, recording=recording, faults=faults)
            _run(service, scenario, host, port)


def _run(service: Service, scenario: Scenario, host: str, port: int) -> None:
    from emulator.server import Server
    from simulator.cli.listening import address_of, listen

    with listen(host, port) as listening:
        url = address_of(host, listening.getsockname()[1])
        if service.options.hosts is None and service.options.api_key is None:
            click.echo(
                f"Warning: everybody who reaches port {listening.getsockname()[1]} of {host} can"
                " use it; --api-key asks for a key.",
                err=True,
            )
        Server(
            service,
            ready=lambda: click.echo(_said(service, scenario, url)),
            tell=lambda line: click.echo(line, err=True),
        ).run(sockets=[listening])
    click.echo(_counted(service))
    if service.clock.failure is not None:
        raise service.clock.failure


def _said(service: Service, scenario: Scenario, url: str) -> str:
    options = service.options
    speed = "in real time" if options.speed == 1 else f"{options.speed:g} times as fast"
    names = [served.name for served in service.names]
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    key = '-H "Authorization: Bearer $SERVECAST_API_KEY" ' if options.api_key else ""
    return "\n".join(
        [
            f"{scenario.name} is served at {url}/v1, {speed}; Ctrl-C ends it.",
            *(f"Deployed   {line}" for line in _deployed(service)),
            f"Models     {', '.join(names if not more else names[:4])}{more}",
            f"Tokens     counted by {service.texts.tokenizer.name}",
            f"Not used   {', '.join(_not_used(scenario))}: that is up to the clients",
            f"Try        {CURL.format(url=url, key=key)}",
        ]
    )


def _deployed(service: Service) -> list[str]:
    lines = []
    for pool in service.deployment.pools:
        deployment = pool.deployment
        devices = pool.most * deployment.devices_per_replica
        name = "" if pool.name == "default" else f"{pool.name}: "
        lines.append(
            f"{name}{deployment.model.name} on {devices} × {deployment.hardware.title},"
            f" {deployment.engine.title} {deployment.engine.version},"
            f" {_replicas(pool)}"
        )
    return lines


def _replicas(pool: ResolvedPool) -> str:
    """How many there are, or may be."""
    scaling = pool.life.scaling if pool.life is not None else None
    fewest = f"{scaling.fewest} to " if scaling is not None and scaling.fewest < pool.most else ""
    return f"{fewest}{pool.most} replica{'s' if pool.most > 1 else ''}"


def _not_used(scenario: Scenario) -> list[str]:
    """What of the scenario is the clients' business."""
    serving = scenario.deployment
    unused = ["workload (but for its classes, adapters and lengths of answers)"]
    if serving.timeout_s is not None:
        unused.append("deployment.timeout_s")
    if serving.admission is not None and serving.admission.retries:
        unused.append("deployment.admission.retries")
    return unused


def _counted(service: Service) -> str:
    counts = service.counts
    return (
        f"Ended. Requests: {counts.served:,} served, {counts.cancelled:,} cancelled by clients,"
        f" {counts.refused:,} refused, {counts.failed:,} failed."
    )


def _allow_files(connections: int) -> None:
    """Every connection is an open file, of which a process may have a limited number."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = connections * 5 // 4 + 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"this process may have {hard:,} open files only",
            where="--max-connections",
            hint=f"at most {max(1, (hard - 128) * 4 // 5):,}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
