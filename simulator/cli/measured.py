"""``measured``: what a load generator measured, told, held against a prediction, or written as a
trace or a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.output import ProgressBar, console, echo_json, echo_table
from simulator.cli.safely import INTERRUPTED
from simulator.cli.scenarios import json_option, loaded, set_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from calibration.validate.clients import Beside
    from simulator.measured import MeasuredRun
    from simulator.scenario import Scenario


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--against", metavar="SCENARIO", help="Predict the same requests, and compare.")
@set_option
@click.option(
    "--run", "only", type=click.IntRange(min=1), metavar="N", help="Only the Nth run of the files."
)
@click.option(
    "--trace", "trace_file", metavar="CSV", help="Write the requests as a trace to replay."
)
@click.option(
    "--dataset",
    metavar="CSV",
    help="With --against: write a row a run for `simulate validate` and `simulate fit --served`.",
)
@click.option(
    "--requests",
    metavar="CSV",
    help="With --against: write a row a request for `simulate validate`.",
)
@json_option
@click.pass_context
def measured(
    ctx: click.Context,
    files: tuple[str, ...],
    against: str | None,
    overrides: tuple[str, ...],
    only: int | None,
    trace_file: str | None,
    dataset: str | None,
    requests: str | None,
    as_json: bool,
) -> None:
    """Tell what a load generator measured, and how far a prediction is off.

    FILE is what `vllm bench serve --save-result`, guidellm, inference-perf or AIPerf wrote, or the
    folder it is in; which of them is seen from what is in it. SCENARIO describes the deployment
    that was measured: the same requests are simulated on it, its own workload plays no part.
    """
    if against is None:
        _needs_scenario(overrides, dataset, requests)
    _apart(trace_file, dataset, requests)
    runs = _chosen(files, only)
    texts: dict[str, str] = {}
    if trace_file is not None:
        texts[trace_file] = _trace(runs, trace_file)
    found: list[Beside] = []
    if against is not None:
        with loaded(against, overrides) as scenario:
            texts |= _rows(runs, scenario, dataset, requests)
            found = _compared(ctx, runs, scenario)
    for file, text in texts.items():
        _write(file, text)
    if as_json:
        echo_json(_document(runs, found))
        return
    for i, run in enumerate(runs):
        if i:
            click.echo()
        _tell(run, found[i] if found else None)
    if len(found) > 1:
        _tell_in_all(found)
    for file in texts:
        use = "trace" if file == trace_file else "validate"
        click.echo(f"\nWrote {file}, for `simulate {use}`.")


def _needs_scenario(overrides: tuple[str, ...], dataset: str | None, requests: str | None) -> None:
    for name, given in (("--set", overrides), ("--dataset", dataset), ("--requests", requests)):
        if given:
            raise UserError("needs --against SCENARIO, the deployment that was measured",
                            where=name)  # fmt: skip


def _apart(*files: str | None) -> None:
    given = [file for file in files if file is not None]
    twice = next((file for file in given if given.count(file) > 1), None)
    if twice is not None:
        raise UserError("would be written twice", where=twice, hint="name two files")


def _chosen(files: tuple[str, ...], only: int | None) -> list[MeasuredRun]:
    from simulator.measured import read_measurements

    runs = [run for file in files for run in read_measurements(file)]
    if only is None:
        return runs
    if only > len(runs):
        held = f"there {'is' if len(runs) == 1 else 'are'} {len(runs)}"
        raise UserError(f"is no run: {held}", where=f"--run {only}")
    return [runs[only - 1]]


def _trace(runs: list[MeasuredRun], file: str) -> str:
    from simulator.measured.trace import trace_text

    if len(runs) > 1:
        raise UserError(f"is made of one run, and there are {len(runs)}", where=f"--trace {file}",
                        hint="--run chooses one")  # fmt: skip
    return trace_text(runs[0])


def _rows(
    runs: list[MeasuredRun], scenario: Scenario, dataset: str | None, requests: str | None
) -> dict[str, str]:
    from calibration.validate.written import dataset_text, requests_text

    texts = {}
    if dataset is not None:
        texts[dataset] = dataset_text(runs, scenario)
    if requests is not None:
        texts[requests] = requests_text(runs, scenario)
    return texts


def _compared(ctx: click.Context, runs: list[MeasuredRun], scenario: Scenario) -> list[Beside]:
    from calibration.validate.clients import beside

    found = []
    for run in runs:
        try:
            with ProgressBar() as progress:
                found.append(beside(run, scenario, progress=progress))
        except KeyboardInterrupt:
            click.echo(f"Interrupted after {len(found)} of {len(runs)} runs.", err=True)
            ctx.exit(INTERRUPTED)
    return found


def _document(runs: list[MeasuredRun], found: list[Beside]) -> dict[str, Any]:
    if not found:
        return {"runs": [run.to_dict() for run in runs]}
    from calibration.validate.clients import document, errors_document

    return {
        "runs": [run.to_dict() | {"prediction": document(one)}
                 for run, one in zip(runs, found, strict=True)],
        "errors": errors_document(found),
    }  # fmt: skip


def _tell(run: MeasuredRun, found: Beside | None) -> None:
    from simulator.measured.described import LATENCY_HEAD, facts, heading, latency_rows, remarks

    click.echo(f"{heading(run)}\n")
    echo_table(["", ""], facts(run), header=False)
    click.echo()
    if found is None:
        echo_table(LATENCY_HEAD, latency_rows(run), numbers=set(LATENCY_HEAD[1:]))
        click.echo()
    else:
        from calibration.validate.figure import HEAD, figure_rows
        from calibration.validate.terminal import print_table

        title = f"Measured, and predicted by {found.scenario.name}"
        print_table(console(), title, HEAD, figure_rows(found.figures))
        click.echo(found.replayed)
    for text in remarks(run):
        click.echo(text)


def _tell_in_all(found: list[Beside]) -> None:
    from calibration.validate.clients import IN_ALL_HEAD, in_all
    from calibration.validate.terminal import print_table

    rows = [
        (title, str(errors.n), f"{errors.median_ape_pct:.1f}%", f"{errors.mean_ape_pct:.1f}%",
         f"{errors.bias_ratio:.2f}", f"{inside} of {n}" if n else "")
        for title, errors, inside, n in in_all(found)
    ]  # fmt: skip
    click.echo()
    print_table(console(), f"All {len(found)} runs", IN_ALL_HEAD, rows)
    click.echo(
        "Error: |predicted − measured| / measured; bias: the median of predicted / measured."
    )


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=file) from None
