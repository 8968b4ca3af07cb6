"""The efficiency block of a hardware profile: fitted, shown, written between its marker lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from calibration.fit import attention, collectives, exchange, experts, products, recurrent
from calibration.fit.blocks import Markers
from calibration.fit.elementwise import fit_elementwise
from calibration.fit.inheritance import INHERITED, inherited_block
from calibration.fit.solve import FOLDS, Fit, solve
from calibration.fit.tables import Device, Tables
from simulator.errors import UserError
from simulator.yamlio import load_yaml

PROFILES = Path(__file__).parent.parent.parent / "hardware_profiles"
MARKERS = Markers(
    "# --- efficiency: written by `simulate fit`, do not edit by hand ---",
    "# --- end of efficiency ---",
)
RELEASE = "NVIDIA AIConfigurator 0.12.0 (Apache-2.0)"
RELEASED = date(2026, 9, 18)

# Kinds that nobody has measured (sampling, the sum of experts' results, embedding): a prior between
# those of norms, rotations and activations.
ELEMENTWISE = {"bandwidth": 0.6, "overhead_us": 2.5}

ENGINES = {"tensorrt-llm": "trtllm", "sglang": "sglang"}
"""Engine profiles with kernels of their own, and the framework of their tables."""

NEEDED = ("matmul", "grouped_matmul", "prefill_attention", "decode_attention", "collective")


@dataclass(frozen=True)
class Line:
    """What is told of one fitted family; ``engine``: of whose kernels, empty for the base."""

    engine: str
    family: str
    rows: int
    groups: int
    fit: Fit


def table_folder(tables: Path, name: str) -> Path:
    """Where the tables of a device are: named as its profile, with underscores and without what
    tells memory sizes apart.

    Raises:
        UserError: there are none.
    """
    if not tables.is_dir():
        raise UserError("no such folder", where=str(tables))
    plain = name.replace("-", "_")
    for folder in (plain, plain.removesuffix("_80gb")):
        if (tables / folder).is_dir():
            return tables / folder
    have = sorted(path.name for path in tables.iterdir() if path.is_dir())
    raise UserError(
        f"has no kernel tables of {name}",
        where=str(tables),
        hint=f"it has {', '.join(have)}" if have else "it has no folders",
    )


def fit_device(
    tables: Path,
    profile: Path,
    operators: Path | None = None,
    say: Callable[[Line], None] = lambda _: None,
) -> dict[str, Any]:
    """Fit everything the tables hold for the device of a profile; returns the efficiency block.
    Without ``operators``, the folder of profiles of single kernels, the elementwise coefficients
    stay what the profile says.

    Raises:
        UserError: tables or columns are missing.
    """
    data, _ = load_yaml(profile)
    device = Device.of(table_folder(tables, data["name"]), data)
    base = Tables(device)
    block, fits = _fit(base, "", say)
    missing = [family for family in NEEDED if family not in block]
    if missing:
        raise UserError(
            f"holds no table to fit {missing[0]} from",
            where=str(device.folder),
            hint="docs/calibration.md lists the tables that a device needs",
        )
    if operators:
        kinds, told = fit_elementwise(operators, data["name"], profile.parent)
    else:
        kinds = data["efficiency"].get("elementwise_kinds", {})
        told = data["efficiency"]["provenance"].get("elementwise", "a prior")
    block |= {"elementwise": ELEMENTWISE, "elementwise_kinds": kinds}
    for engine, framework in ENGINES.items():
        own = Tables(device, framework)
        families, found = _fit(own, engine, say)
        if families:
            engines = block.setdefault("engines", {})
            engines[engine] = {"provenance": _provenance(own, found), **families}
    return {"provenance": _provenance(base, fits) | {"elementwise": told}, **block}


def _fit(
    tables: Tables, engine: str, say: Callable[[Line], None]
) -> tuple[dict[str, Any], dict[str, Fit]]:
    """Coefficients by family and number format, and the fits by their labels."""
    block: dict[str, Any] = {}
    fits: dict[str, Fit] = {}
    for families in (products, experts, attention, collectives, exchange, recurrent):
        for sample in families.samples(tables):
            if engine and len(set(sample.groups)) < FOLDS:
                continue  # a shape or two: the base, from more of them, is the better guess
            shapes = len(set(sample.groups))
            fit = fits[sample.label] = solve(sample)
            say(Line(engine, sample.label, len(sample.measured), shapes, fit))
            if isinstance(sample, experts.ExpertsSample) and sample.skewed:
                label, rows = f"{sample.label} skewed", sum(len(x.rows) for x in sample.skewed)
                fit = fits[label] = sample.solve_tiling(fit.coefficients)
                say(Line(engine, label, rows, shapes, fit))
            if sample.key:
                block.setdefault(sample.family, {})[sample.key] = fit.coefficients
            else:
                block[sample.family] = fit.coefficients
    return block, fits


def _provenance(tables: Tables, fits: dict[str, Fit]) -> dict[str, Any]:
    return {
        "method": "fitted",
        "detail": f"kernel tables of {RELEASE}",
        "date": RELEASED,
        "engine": ", ".join(tables.versions),
        "data_sha256": tables.sha256,
        "residual_median_pct": {name: round(100 * fit.median, 1) for name, fit in fits.items()},
        "held_out_median_pct": {name: round(100 * fit.held_out, 1) for name, fit in fits.items()},
        "residual_quantiles": {name: fit.quantiles for name, fit in fits.items()},
    }


def inherit(profiles: Path) -> Iterator[str]:
    """Rewrite the blocks of devices without tables from those with; yields their names."""
    for name in INHERITED:
        write_block(profiles / f"{name}.yaml", inherited_block(profiles, name))
        yield name


def block_text(block: dict[str, Any]) -> str:
    """The block as YAML."""
    text: str = yaml.dump(
        {"efficiency": _laid_out(block)}, Dumper=_Dumper, sort_keys=False, width=98,
        allow_unicode=True,
    )  # fmt: skip
    return text


def shipped_text(profile: Path) -> str:
    """What stands between the marker lines of a profile.

    Raises:
        UserError: a marker line is missing.
    """
    return MARKERS.read(profile)


def write_block(profile: Path, block: dict[str, Any]) -> None:
    """Replace what stands between the marker lines of a profile; the rest of the file stays."""
    MARKERS.write(profile, block_text(block))


class _Flow(list[Any]):
    """A list on one line."""


class _Text(str):
    """Text as it stands."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Flow, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True)
)
_Dumper.add_representer(
    _Text, lambda d, v: d.represent_scalar("tag:yaml.org,2002:str", v, style="|")
)


def _laid_out(value: Any) -> Any:
    """Grids as tables of text, lists of numbers on one line."""
    if isinstance(value, dict):
        laid = {key: _laid_out(item) for key, item in value.items()}
        if "percent" in value and "axes" in value:
            columns = len(list(value["axes"].values())[-1])
            percent = value["percent"]
            inherited = isinstance(percent, str)
            laid["percent"] = _Text(percent) if inherited else _table(percent, columns)
        return laid
    if isinstance(value, list | tuple):
        plain = all(isinstance(item, int | float) for item in value)
        items = [int(x) if plain and x == int(x) else _laid_out(x) for x in value]
        return _Flow(items) if plain else items
    return value


def _table(percent: tuple[float, ...], columns: int) -> _Text:
    rows = (percent[i : i + columns] for i in range(0, len(percent), columns))
    return _Text("".join(" ".join(f"{p:.1f}" for p in row) + "\n" for row in rows))
