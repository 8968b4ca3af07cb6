"""``trace``: what a file of recorded requests holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from simulator.cli.output import echo_json, echo_table
from simulator.cli.scenarios import json_option

if TYPE_CHECKING:
    from simulator.workload.describe import TraceDescription
    from simulator.workload.describe_rates import RatesDescription


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--format", "layout", default="auto", help="How the file is laid out; see docs.")
@click.option("--start-s", type=float, default=0.0, help="Describe from this second on.")
@click.option("--duration-s", type=float, help="Describe so many seconds.")
@click.option("--requests", type=int, help="Describe so many requests at most.")
@json_option
def trace(
    file: str,
    layout: str,
    start_s: float,
    duration_s: float | None,
    requests: int | None,
    as_json: bool,
) -> None:
    """Describe a trace: rate, burstiness, lengths and shared prefixes.

    FILE is a path or the name of a shipped trace, or of a table of rates over time.
    """
    from pydantic import ValidationError

    from simulator.errors import UserError
    from simulator.scenario.document import Places
    from simulator.scenario.lengths import TraceFormat
    from simulator.scenario.workload import TraceSlice
    from simulator.workload import describe_trace
    from simulator.workload.describe_rates import describe_rates, is_rate_table
    from simulator.yamlio import closest, validation_sentence

    formats = get_args(TraceFormat)
    if layout not in formats:
        near = closest(layout, formats)
        raise UserError(
            f"must be one of {', '.join(formats)}",
            where=f"--format {layout}",
            hint=f"did you mean '{near}'?" if near else "",
        )
    given = {"start_s": start_s, "duration_s": duration_s, "requests": requests}
    try:
        part = TraceSlice.model_validate(given)
    except ValidationError as error:
        places: Places = {
            (key,): f"--{key.replace('_', '-')} {value}" for key, value in given.items()
        }
        raise validation_sentence(error, file, places, TraceSlice) from None
    description: TraceDescription | RatesDescription
    if layout == "auto" and is_rate_table(file):
        if part != TraceSlice():
            raise UserError(
                "is a table of rates, which is described as a whole",
                where=file,
                hint="leave out --start-s, --duration-s and --requests",
            )
        description = describe_rates(file)
    else:
        try:
            description = describe_trace(file, layout, part)
        except UserError:
            _refuse_measured(file)
            raise
    if as_json:
        echo_json(description.to_dict())
    else:
        echo_table(["", ""], [list(row) for row in description.rows()], header=False)


def _refuse_measured(file: str) -> None:
    """Says so where a file that is no trace is what a load generator wrote."""
    from simulator.errors import UserError
    from simulator.measured import client_of

    client = client_of(file) if ".json" in file else None
    if client is not None:
        raise UserError(
            f"is no trace, but what {client} measured", where=file,
            hint="`simulate measured FILE --trace CSV` makes a trace of it",
        ) from None  # fmt: skip
