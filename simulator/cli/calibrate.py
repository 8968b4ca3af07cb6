"""``calibrate``: measure this machine with the micro-engine."""

from __future__ import annotations

from pathlib import Path

import click

from simulator.cli.folder import ROOT
from simulator.cli.output import Bar
from simulator.cli.safely import INTERRUPTED
from simulator.errors import UserError

_FORMATS = ("bf16", "fp16", "fp32", "int8", "fp8")


@click.command()
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="What to measure.  [default: cuda where there is one]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Preset or config.json whose operators and steps to measure; repeatable.  [default: a "
    "small one on a CPU; llama-3.1-8b, qwen3-14b and qwen3-30b-a3b on a GPU]",
)
@click.option(
    "--weights",
    type=click.Choice(_FORMATS),
    multiple=True,
    help="Number format of weights; repeatable. int8: products in bf16; fp8: in fp8.  "
    "[default: bf16]",
)
@click.option("--out", metavar="DIR", help=f"Folder of the measurements.  [default: {ROOT}/...]")
@click.pass_context
def calibrate(
    ctx: click.Context,
    device: str | None,
    models: tuple[str, ...],
    weights: tuple[str, ...],
    out: str | None,
) -> None:
    """Measure this machine: ceilings, kernels one by one, steps and the host's share in them.

    Raw measurements go to DIR/measurements.parquet with device, driver, versions, clocks and date;
    `simulate fit --measured DIR` makes a hardware profile of them. What is measured is saved as it
    comes: the same command goes on where an interrupted one stopped.
    """
    try:
        from calibration.measure import run
        from calibration.measure.machine import choose_device
    except ImportError as error:
        raise UserError(
            f"measuring needs torch ({error})", hint="pip install 'servecast[calibration]'"
        ) from None
    chosen = choose_device(device)
    folder = Path(out) if out is not None else ROOT / f"calibrate-{chosen.type}"
    wanted = [
        run.named(name, run.formats(kind))
        for name in models or run.default_models(chosen.type)
        for kind in weights or ("bf16",)
    ]
    try:
        with _Parts() as bar:
            path, rows = run.calibrate(wanted, chosen, folder, bar)
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted: finished parts are in {folder}; the same command goes on from there.",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    for line in run.told(rows):
        click.echo(line)
    click.echo(f"{len(rows):,} measurements in {path}")
    click.echo(f"next: simulate fit --measured {folder} --help")


class _Parts(Bar):
    """A line for each part."""

    def __init__(self) -> None:
        super().__init__(patience_s=0.0, stays=True, remaining=False)

    def __call__(self, part: str, done: int, total: int) -> None:
        self.show(f"Measuring {part}", done, total, line=part)
