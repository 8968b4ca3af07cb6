"""``fit``: kernels from measured tables, power curves and engines from measured servers, machines
from ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.folder import ROOT

if TYPE_CHECKING:
    from calibration.fit.profile import Line

HEADER = f"{'family':42s}{'rows':>8s}{'shapes':>8s}{'fitted':>10s}{'held out':>10s}"


@click.command()
@click.argument("tables", type=click.Path(path_type=Path), metavar="[TABLES]", required=False)
@click.option("--device", "devices", multiple=True, help="Hardware profile to fit.")
@click.option(
    "--profiles",
    type=click.Path(path_type=Path),
    help="Folder of the profiles; otherwise the shipped ones.",
)
@click.option(
    "--operators", type=click.Path(path_type=Path), help="Folder of microsoft/vidur's profiles."
)
@click.option(
    "--power",
    "points",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit the power curve instead, to measured points with power.",
)
@click.option(
    "--served",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit the overheads of an engine instead, to measured servers.",
)
@click.option("--engine", help="Engine profile to fit, with --served.")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Fit what `simulate calibrate` measured instead.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --served: fit all rows and write an engine profile of your own. With --measured: "
    "write a hardware profile of your own.",
)
@click.option("--title", help="With --measured and --out: what reports call the machine.")
@click.option("--tdp-w", type=float, help="With --measured and --out: its power at full load.")
@click.option("--idle-w", type=float, help="With --measured and --out: its power when idle.")
@click.option("--write", is_flag=True, help="Write the profiles, and those that inherit.")
def fit(
    tables: Path | None,
    devices: tuple[str, ...],
    profiles: Path | None,
    operators: Path | None,
    points: Path | None,
    served: Path | None,
    engine: str | None,
    measured: Path | None,
    out: Path | None,
    title: str | None,
    tdp_w: float | None,
    idle_w: float | None,
    write: bool,
) -> None:
    """Fit a device's kernel efficiencies to measured kernel tables, its power curve, or an engine.

    TABLES is a folder as NVIDIA AIConfigurator ships it:
    <gpu>/<op>/<framework>/<version>/<table>_perf.parquet. Prints the median error of every family,
    of the rows fitted and of shapes held out, and whether the profile holds these coefficients.
    With --operators norms, rotations and activations are fitted too; otherwise they stay.

    With --measured, DIR holds what `simulate calibrate` measured: --device adds the micro-engine's
    kernels and overheads to that hardware profile, --out writes a profile of a machine that has
    none.

    With --power and --served, FILE holds measured points as `simulate validate` reads them. With
    --served and --out, a handful of rows of your own servers makes an engine profile: name its file
    in a scenario as engine.profile.
    """
    from calibration.fit import profile as fitting
    from simulator.errors import UserError

    if measured is not None:
        others = (tables, points, served, engine, operators)
        if any(other is not None for other in others):
            raise UserError("takes no TABLES, --power, --served, --engine or --operators",
                            where=f"--measured {measured}")  # fmt: skip
        from simulator.cli.machine import fit_machine

        facts = (title, tdp_w, idle_w)
        fit_machine(measured, devices, profiles or fitting.PROFILES, out, facts, write=write)
        return
    if any(fact is not None for fact in (title, tdp_w, idle_w)):
        raise UserError("belong to --measured DIR", where="--title, --tdp-w and --idle-w")
    if served is not None:
        if engine is None or devices or tables is not None or points is not None:
            raise UserError(
                "needs --engine, and takes no TABLES, --device or --power",
                where=f"--served {served}",
            )
        _fit_engine(served, engine, out, write=write)
        return
    if engine is not None or out is not None:
        raise UserError("belong to --served FILE or --measured DIR", where="--engine and --out")
    if not devices:
        raise UserError("needs --device, a hardware profile to fit", where="simulate fit")
    folder = profiles or fitting.PROFILES
    if points is not None:
        if tables is not None or len(devices) != 1:
            raise UserError(
                "fits one --device at a time and takes no TABLES", where=f"--power {points}"
            )
        _fit_power(points, folder, devices[0], write=write)
        return
    if tables is None:
        raise UserError("needs TABLES to fit kernels, or --power FILE to fit the power curve")
    for name in devices:
        path = profile_path(folder, name)
        fitting.table_folder(tables, name)
        click.echo(f"{name}\n{HEADER}")
        block = fitting.fit_device(tables, path, operators, tell)
        if write:
            fitting.write_block(path, block)
            click.echo(f"wrote {path}")
        elif fitting.block_text(block) == fitting.shipped_text(path):
            click.echo(f"{path} holds exactly this")
        else:
            click.echo(f"{path} differs; --write replaces its efficiency block")
    if write:
        for name in fitting.inherit(folder) if profiles is None else ():
            click.echo(f"wrote {folder / name}.yaml, which inherits")


def _fit_engine(served: Path, name: str, out: Path | None, *, write: bool) -> None:
    from calibration.fit import engines, own
    from calibration.fit import served as fitting
    from calibration.validate import read_dataset
    from simulator.engines import load_engine
    from simulator.errors import UserError

    if out is not None and write:
        raise UserError("is for the shipped profile, --out for one of your own", where="--write")
    if out is not None and not out.resolve().parent.is_dir():
        raise UserError("there is no such folder", where=str(out.parent))
    profile = load_engine(name)
    dataset = read_dataset(str(served))
    kept = ROOT / f"fit-{dataset.name}"
    if out is not None:
        found = own.fit_own(profile, dataset.points, kept, click.echo)
        try:
            out.write_text(own.profile_text(found), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None
        click.echo(f"wrote {out}")
        return
    path = engines.profile_file(profile.name)
    text = engines.overheads_text(fitting.fit_engine(profile, dataset.points, kept, click.echo))
    if write:
        engines.MARKERS.write(path, text)
        click.echo(f"wrote {path}")
    elif engines.MARKERS.read(path) == text:
        click.echo(f"{path} holds exactly this")
    else:
        click.echo(f"{path} differs; --write replaces its overheads")


def _fit_power(points: Path, folder: Path, device: str, *, write: bool) -> None:
    from calibration.fit import power

    path = profile_path(folder, device)
    found = power.fit_power(points, device, ROOT / f"fit-power-{points.stem}")
    block = found.block()
    click.echo(", ".join(f"{name} {value:g}" for name, value in found.curve.items()))
    click.echo(f"{block['provenance']['detail']}")
    click.echo(f"median error of power at the measured rate: {found.residual_pct:.1f} %")
    if found.held_out_pct is not None:
        click.echo(f"of the models held out: {found.held_out_pct:.1f} %")
    if write:
        power.write_curve(path, block)
        click.echo(f"wrote {path}")
        for name in power.pass_on(folder, device):
            click.echo(f"wrote {folder / name}.yaml, which inherits")
    elif power.holds(path, block):
        click.echo(f"{path} holds exactly this")
    else:
        click.echo(f"{path} differs; --write replaces its power curve")


def profile_path(folder: Path, name: str) -> Path:
    """The file of a shipped hardware profile."""
    from simulator.errors import UserError
    from simulator.sentences import closest

    path = folder / f"{name}.yaml"
    if not path.is_file():
        near = closest(name, [p.stem for p in folder.glob("*.yaml")])
        raise UserError(
            f"there is no profile '{name}'",
            where=str(folder),
            hint=f"did you mean '{near}'?" if near else "`simulate list hardware` shows all",
        )
    return path


def tell(line: Line) -> None:
    """Prints a fitted family's errors."""
    click.echo(
        f"{f'{line.engine} {line.family}'.strip():42s}{line.rows:>8,d}{line.groups:>8,d}"
        f"{100 * line.fit.median:>8.1f} %{100 * line.fit.held_out:>8.1f} %"
    )
