"""``measured``: what a load generator measured, as figures, as a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.output import echo_json, echo_table
from simulator.cli.scenarios import json_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.measured import MeasuredRun


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--run", "only", type=click.IntRange(min=1), metavar="N", help="Only the Nth run of the files."
)
@click.option(
    "--trace", "trace_file", metavar="CSV", help="Write the requests as a trace to replay."
)
@json_option
def measured(
    files: tuple[str, ...], only: int | None, trace_file: str | None, as_json: bool
) -> None:
    """Tell what a load generator measured, and make a trace of it.

    FILE is what `vllm bench serve --save-result`, guidellm, inference-perf or AIPerf wrote, or the
    folder it is in; which of them is seen from what is in it.
    """
    runs = _chosen(files, only)
    if trace_file is not None:
        from simulator.measured.trace import trace_text

        if len(runs) > 1:
            raise UserError(f"is made of one run, and there are {len(runs)}",
                            where=f"--trace {trace_file}", hint="--run chooses one")  # fmt: skip
        write(trace_file, trace_text(runs[0]))
    if as_json:
        echo_json({"runs": [run.to_dict() for run in runs]})
        return
    for i, run in enumerate(runs):
        if i:
            click.echo()
        _tell(run)
    if trace_file is not None:
        click.echo(f"\nWrote {trace_file}: `simulate trace {trace_file}` describes it.")


def _chosen(files: tuple[str, ...], only: int | None) -> list[MeasuredRun]:
    from simulator.measured import read_measurements

    runs = [run for file in files for run in read_measurements(file)]
    if only is None:
        return runs
    if only > len(runs):
        held = f"there {'is' if len(runs) == 1 else 'are'} {len(runs)}"
        raise UserError(f"is no run: {held}", where=f"--run {only}")
    return [runs[only - 1]]


def _tell(run: MeasuredRun) -> None:
    from simulator.measured.described import LATENCY_HEAD, facts, heading, latency_rows, remarks

    click.echo(f"{heading(run)}\n")
    echo_table(["", ""], facts(run), header=False)
    click.echo()
    echo_table(LATENCY_HEAD, latency_rows(run), numbers=set(LATENCY_HEAD[1:]))
    click.echo()
    for text in remarks(run):
        click.echo(text)


def write(file: str, text: str) -> None:
    """Writes a file that was asked for.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=file) from None
