"""``validate``: measured points rerun as simulations, and how far the two lie apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.folder import ROOT
from simulator.cli.output import console, echo_json
from simulator.cli.safely import INTERRUPTED
from simulator.cli.scenarios import json_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress


@click.command()
@click.argument("dataset", metavar="DATASET")
@json_option
@click.option("--html", metavar="FILE", help="Write a report with charts.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write every point as a row.")
@click.option("--markdown", metavar="FILE", help="Write the tables for a document.")
@click.option(
    "--out",
    metavar="DIR",
    help=f"Folder that keeps finished points.  [default: {ROOT}/validate-NAME]",
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
@click.pass_context
def validate(
    ctx: click.Context,
    dataset: str,
    as_json: bool,
    html: str | None,
    csv_file: str | None,
    markdown: str | None,
    out: str | None,
    split: str,
    where: tuple[str, ...],
    limit: int | None,
    processes: int | None,
) -> None:
    """Simulate measured points and say how far off the predictions are.

    DATASET is a CSV file with a row for each measured deployment, or with a row for each request.
    Finished points are kept, so that the same command goes on where an interrupted one stopped.
    """
    from calibration import validate as validation
    from calibration.validate.measured import unread

    pairs = [_pair(text) for text in where]
    points = validation.read_dataset(dataset)
    note = unread(points.ignored)
    if note:
        click.echo(note, err=True)
    folder = Path(out) if out is not None else ROOT / f"validate-{points.name}"
    try:
        with _Bar() as bar:
            found = validation.validate(
                points, folder, split=split, where=pairs, limit=limit, processes=processes,
                progress=bar,
            )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted: finished points are in {folder}; the same command goes on from there.",
            err=True,
        )
        ctx.exit(INTERRUPTED)
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


class _Bar:
    """A bar on stderr, shown only on a terminal."""

    def __enter__(self) -> Callable[[int, int], None]:
        self._bar: Progress | None = None
        self._began = time.monotonic()
        return self._update

    def __exit__(self, *ended: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _update(self, done: int, total: int) -> None:
        import sys

        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeRemainingColumn as Remaining

            self._bar = Progress(
                TextColumn("Validating"), BarColumn(), MofNCompleteColumn(), TextColumn("points ·"),
                Remaining(), console=console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
