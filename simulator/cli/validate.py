"""``validate``: measured points rerun as simulations, or a scenario run for real and simulated, and
how far the two lie apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from simulator.cli.folder import ROOT
from simulator.cli.folder import _slug as slug
from simulator.cli.output import Bar, console, echo_json
from simulator.cli.safely import INTERRUPTED
from simulator.cli.scenarios import json_option, loaded, set_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.scenario import Scenario


_OF_DATASETS = ("csv_file", "split", "where", "limit", "processes")
_OF_ENGINES = ("overrides", "device", "rates", "rounds", "checkpoint")
"""Options that the other way of validating does not have."""

_MOST_MULTIPLE = 100


@click.command()
@click.argument("dataset", metavar="[DATASET]", required=False)
@json_option
@click.option("--html", metavar="FILE", help="Write a report with charts.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write every point as a row.")
@click.option("--markdown", metavar="FILE", help="Write the tables for a document.")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder that keeps what is finished.  "
    f"[default: {ROOT}/validate-NAME, {ROOT}/validate-engine-NAME]",
)
@click.option(
    "--split",
    type=click.Choice(["fit", "validation", "all"]),
    default="all",
    show_default=True,
    help="Which half of the points.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only points with this value, such as system=h200_sxm; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many points.")
@click.option("--processes", type=click.IntRange(1, 256), help="Default: one for each core.")
@click.option("--engine", metavar="SCENARIO", help="Run this scenario for real, and simulate it.")
@set_option
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="With --engine: where it runs.  [default: cuda where there is one]",
)
@click.option(
    "--rates",
    metavar="LIST",
    help="With --engine: multiples of the predicted capacity.  [default: 0.1,0.5,0.8,1.0,1.2]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    help="With --engine: serve each rate so often and take medians.  [default: 1]",
)
@click.option(
    "--checkpoint",
    is_flag=True,
    help="With --engine: read the weights beside the model's config.json; else they are random.",
)
@click.pass_context
def validate(
    ctx: click.Context,
    dataset: str | None,
    as_json: bool,
    html: str | None,
    csv_file: str | None,
    markdown: str | None,
    out: str | None,
    split: str,
    where: tuple[str, ...],
    limit: int | None,
    processes: int | None,
    engine: str | None,
    overrides: tuple[str, ...],
    device: str | None,
    rates: str | None,
    rounds: int | None,
    checkpoint: bool,
) -> None:
    """Say how far off predictions are.

    DATASET is a CSV file with a row for each measured deployment, or with a row for each request:
    every point is simulated. With --engine instead, a scenario for the micro-engine is served for
    real on this machine and simulated, from an idle engine to an overloaded one.

    What is finished is kept, so that the same command goes on where an interrupted one stopped.
    """
    if engine is not None:
        if dataset is not None:
            raise UserError("give either a DATASET or --engine SCENARIO, not both")
        _refuse(ctx, _OF_DATASETS, "is for a DATASET, not for --engine")
        options = {
            "device": device, "multiples": _multiples(rates), "rounds": rounds,
            "checkpoint": checkpoint,
        }  # fmt: skip
        with loaded(engine, overrides) as scenario:
            _engine(ctx, scenario, options, as_json, html, markdown, out)
        return
    if dataset is None:
        raise UserError("give a DATASET, or --engine SCENARIO")
    _refuse(ctx, _OF_ENGINES, "is for --engine, not for a DATASET")
    from calibration import validate as validation
    from calibration.validate.measured import unread

    if ".json" in Path(dataset).name:
        raise UserError("is no CSV", where=dataset, hint="`simulate measured FILE --against "
                        "SCENARIO` compares what a load generator wrote")  # fmt: skip
    pairs = [_pair(text) for text in where]
    points = validation.read_dataset(dataset)
    note = unread(points.ignored)
    if note:
        click.echo(note, err=True)
    folder = Path(out) if out is not None else validation.usual_folder(points.name)
    with _kept(ctx, "finished points", folder), _Steps("Validating", "points") as bar:
        found = validation.validate(
            points, folder, split=split, where=pairs, limit=limit, processes=processes,
            progress=bar,
        )  # fmt: skip
    if html is not None:
        from calibration.validate.page import page

        _write(html, page(found))
    if csv_file is not None:
        from calibration.validate.tables import csv_text

        _write(csv_file, csv_text(found.comparisons))
    if markdown is not None:
        from calibration.validate.tables import markdown as tables

        _write(markdown, tables(found.comparisons, found.skipped))
    if as_json:
        echo_json(validation.document(found.comparisons, found.skipped))
    else:
        from calibration.validate.terminal import render

        render(found, console(piped=160))


def _engine(
    ctx: click.Context,
    scenario: Scenario,
    options: dict[str, Any],
    as_json: bool,
    html: str | None,
    markdown: str | None,
    out: str | None,
) -> None:
    """Serves a scenario for real and predicts it."""
    from calibration.validate.engine import need_torch

    need_torch()

    def part(name: str) -> Any:
        # By name: whoever checks the types of this program need not have PyTorch.
        return import_module(f"calibration.validate.engine.{name}")

    folder = Path(out) if out is not None else ROOT / f"validate-engine-{slug(scenario.name)}"
    run = part("run")
    with _kept(ctx, "finished runs", folder), _Steps("Serving", "requests") as bar:
        found = run.validate_engine(scenario, folder, progress=bar, **options)
    if html is not None:
        _write(html, part("page").page(found))
    if markdown is not None:
        _write(markdown, part("tables").markdown(found))
    if as_json:
        echo_json(run.document(found))
    else:
        part("terminal").render(found, console(piped=160))


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """Refuses options that were given and would do nothing."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise UserError(why, where=parameter.opts[0])


def _multiples(text: str | None) -> tuple[float, ...] | None:
    """What ``--rates`` says."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < multiple <= _MOST_MULTIPLE for multiple in found):
        raise UserError(
            f"must be numbers above 0 and up to {_MOST_MULTIPLE}",
            where=f"--rates {text}",
            hint="as in 0.5,1.0",
        )
    return found


@contextmanager
def _kept(ctx: click.Context, what: str, folder: Path) -> Iterator[None]:
    """Says after Ctrl-C what is there."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted: {what} are in {folder}; the same command goes on from there.", err=True
        )
        ctx.exit(INTERRUPTED)


def _pair(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UserError("must be FIELD=VALUE", where=f"--where {text}", hint="as in tp=8")
    return field, value


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=file) from None


class _Steps(Bar):
    """One thing after another."""

    def __init__(self, doing: str, what: str) -> None:
        super().__init__(what, patience_s=0.0)
        self._doing = doing

    def __call__(self, done: int, total: int) -> None:
        self.show(self._doing, done, total)
