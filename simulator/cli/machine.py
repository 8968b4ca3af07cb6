"""``fit --measured``: the profile of a machine that ``calibrate`` has measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.fit import HEADER, profile_path, tell
from simulator.errors import UserError

if TYPE_CHECKING:
    from calibration.fit.machine.profile import MachineFit

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")

Facts = tuple[str | None, float | None, float | None]


def fit_machine(
    measured: Path,
    devices: tuple[str, ...],
    profiles: Path,
    out: Path | None,
    facts: Facts,
    *,
    write: bool,
) -> None:
    """Fits, tells the errors, and writes.

    Args:
        measured: folder of the measurements.
        devices: the hardware profile to add to, at most one.
        profiles: where it lies.
        out: a profile of its own instead.
        facts: title, power at full load and when idle (W) of the latter.
        write: change the former; otherwise say whether it holds what was fitted.

    Raises:
        UserError: options contradict each other, or there are no measurements.
    """
    try:
        from calibration.fit.machine.profile import MachineFit
    except ImportError as error:
        raise UserError(
            f"reading measurements needs torch ({error})",
            hint="pip install 'servecast[calibration]'",
        ) from None
    if (len(devices) == 1) == (out is not None) or len(devices) > 1:
        raise UserError(
            "needs either one --device, whose profile is added to, or --out, a profile of its own",
            where=f"--measured {measured}",
        )
    if out is not None:
        if write:
            raise UserError("goes with --device; --out always writes", where="--write")
        _own(MachineFit(measured), out, facts)
        return
    if any(fact is not None for fact in facts):
        raise UserError("belong to --out", where="--title, --tdp-w and --idle-w")
    from simulator.hardware import load_hardware

    path = profile_path(profiles, devices[0])
    hardware = load_hardware(str(path.resolve()))
    machine = MachineFit(measured, hardware)
    if (hardware.kind == "cpu") != machine.on_host:
        raise UserError(
            f"was measured on {machine.machine['device']}, which is no {hardware.title}",
            where=str(measured),
            hint="measure that device, or give the machine a profile of its own with --out",
        )
    click.echo(f"{devices[0]}\n{HEADER}")
    _add(machine, path, write=write)


def _own(machine: MachineFit, out: Path, facts: Facts) -> None:
    from calibration.fit.machine.profile import Own

    title, tdp_w, idle_w = facts
    if tdp_w is None or idle_w is None or not 0 < idle_w < tdp_w < 1e6:
        raise UserError(
            "a new profile needs the machine's power, which nothing measures here",
            where="--tdp-w and --idle-w",
            hint="give watts, the second below the first",
        )
    if not out.resolve().parent.is_dir():
        raise UserError("there is no such folder", where=str(out.parent))
    if out.is_dir() or not _NAME.fullmatch(out.stem):
        raise UserError(
            "cannot be a profile's file, whose name is the profile's",
            where=str(out),
            hint="use small letters, digits and hyphens, as in my-machine.yaml",
        )
    click.echo(f"{out}\n{HEADER}")
    own = Own(out.stem, title or machine.machine["device"], tdp_w, idle_w)
    text = machine.profile_text(own, tell)
    if out.is_file() and out.read_text(encoding="utf-8") == text:
        click.echo(f"{out} holds exactly this")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None
    click.echo(f"wrote {out}")


def _add(machine: MachineFit, path: Path, *, write: bool) -> None:
    from calibration.engine.build import NAME
    from calibration.fit import profile as fitting
    from simulator.yamlio import load_yaml

    data, _ = load_yaml(path)
    block = data["efficiency"]
    block["engines"] = {**block.get("engines", {}), NAME: machine.engine_block(tell)}
    if write:
        fitting.write_block(path, block)
        click.echo(f"wrote {path}")
    elif fitting.block_text(block) == fitting.shipped_text(path):
        click.echo(f"{path} holds exactly this")
    else:
        click.echo(f"{path} differs; --write replaces the micro-engine's part")
