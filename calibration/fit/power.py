"""The power curve of a device, fitted to servers whose power was measured.

Every row is simulated; what power depends on (shares of the peaks, of the time in decode attention
and in products that widen weights) is stretched to the measured output rate, so that the curve does
not make up for errors in speed. Bounded least squares with a robust loss on the logarithm of
predicted over measured power; models that ``calibration/datasets/loads.yaml`` holds back are only
predicted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from calibration.fit.inheritance import AS_OF
from calibration.validate import Comparison, read_dataset, validate
from calibration.validate.formats import target
from calibration.validate.loads import loads
from calibration.validate.metrics import power_at_measured_rate
from simulator.errors import UserError
from simulator.hardware.profile import Power
from simulator.workload.requests import Floats
from simulator.yamlio import load_yaml

COEFFICIENTS = ("active", "compute", "memory", "attention", "widening")
HIGHEST = (1.0, 10.0, 10.0, 10.0, 10.0)
LOOSE = 0.05
"""Residuals beyond this (of the logarithm) count by their absolute value."""
FEWEST = 10


@dataclass(frozen=True)
class PowerFit:
    """A fitted curve.

    Args:
        curve: coefficients.
        rows, models: how many were fitted.
        held_rows, held_models: how many were held out.
        residual_pct, held_out_pct: median errors of power at the measured rate, which are those of
            energy per output token as well; None if no row is held out.
        data: its name, if it is known.
        engine, data_sha256: what was measured, and the hash of the file.
    """

    curve: dict[str, float]
    rows: int
    models: int
    held_rows: int
    held_models: int
    residual_pct: float
    held_out_pct: float | None
    data: str
    engine: str
    data_sha256: str

    def block(self) -> dict[str, Any]:
        """The curve as a profile holds it."""
        told = f"mean power of {self.rows} busy servers with {self.models} models"
        if self.held_rows:
            told += f", {self.held_rows} with {self.held_models} others held out"
        if self.data:
            told += f"; {self.data}"
        provenance: dict[str, Any] = {
            "method": "fitted",
            "detail": told,
            "date": AS_OF,
            "engine": self.engine,
            "data_sha256": self.data_sha256,
            "residual_median_pct": {"power": round(self.residual_pct, 1)},
        }
        if self.held_out_pct is not None:
            provenance["held_out_median_pct"] = {"power": round(self.held_out_pct, 1)}
        return {**self.curve, "provenance": provenance}


def fit_power(file: Path, device: str, folder: Path) -> PowerFit:
    """Fits the curve of a device to a file of measured points (see ``simulate validate``).

    Args:
        file: rows without ``power_w`` and ``output_tokens_per_s`` do not count.
        device: profile whose idle power and TDP bound the curve.
        folder: keeps finished simulations.

    Raises:
        UserError: there are too few rows of the device.
    """
    found = validate(read_dataset(file), folder).comparisons
    rows = [c for c in found if c.pair("power_w_at_measured_rate") is not None]
    rows = [c for c in rows if target(c.point).hardware.name == device]
    fitted = [c for c in rows if c.half == "fit"]
    held = [c for c in rows if c.half != "fit"]
    if len(fitted) < FEWEST:
        raise UserError(
            f"has {len(fitted)} rows with power and output_tokens_per_s of {device} to fit",
            where=str(file),
            hint=f"at least {FEWEST} are needed",
        )
    power = target(fitted[0].point).hardware.power

    def residuals(values: Floats) -> Floats:
        return np.log(_ratios(fitted, _curved(power, values)))

    solution = least_squares(
        residuals,
        np.full(len(COEFFICIENTS), 0.3),
        bounds=(np.zeros(len(COEFFICIENTS)), HIGHEST),
        loss="soft_l1",
        f_scale=LOOSE,
    )
    curve = dict(zip(COEFFICIENTS, np.round(solution.x, 3).tolist(), strict=True))
    fit = _curved(power, list(curve.values()))
    versions = sorted({f"{c.point.engine} {c.point.version}".lower() for c in rows})
    return PowerFit(
        curve, len(fitted), _models(fitted), len(held), _models(held),
        residual_pct=_median_pct(fitted, fit),
        held_out_pct=_median_pct(held, fit) if held else None,
        data=loads().saturated.name if any(c.point.until_queue_empty for c in rows) else "",
        engine=", ".join(versions),
        data_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )  # fmt: skip


def _curved(power: Power, values: Sequence[float] | Floats) -> Power:
    given = dict(zip(COEFFICIENTS, (float(v) for v in values), strict=True))
    return power.model_copy(update={"curve": power.curve.model_copy(update=given)})


def _ratios(rows: Sequence[Comparison], power: Power) -> Floats:
    """Predicted over measured power of each row, at the measured rate. Shape (rows,)."""
    pairs = [power_at_measured_rate(c, power) or (1.0, 1.0) for c in rows]
    return np.array([predicted / measured for measured, predicted in pairs])


def _median_pct(rows: Sequence[Comparison], power: Power) -> float:
    return 100.0 * float(np.median(np.abs(_ratios(rows, power) - 1.0)))


def _models(rows: Sequence[Comparison]) -> int:
    return len({c.point.model for c in rows})


# --- profiles ------------------------------------------------------------------------------------

_BLOCK = re.compile(r"^  curve:\n(?:    .*\n)+", re.MULTILINE)


def shipped_curve(profile: Path) -> dict[str, Any]:
    """The curve that a profile holds."""
    curve: dict[str, Any] = load_yaml(profile)[0]["power"]["curve"]
    return curve


def holds(profile: Path, block: dict[str, Any]) -> bool:
    """Whether a profile holds exactly this curve."""
    return _text(block) in profile.read_text(encoding="utf-8")


def write_curve(profile: Path, block: dict[str, Any]) -> None:
    """Replaces the curve of a profile; the rest of the file stays.

    Raises:
        UserError: it has no block to replace.
    """
    text, count = _BLOCK.subn(lambda _: _text(block), profile.read_text(encoding="utf-8"))
    if count != 1:
        raise UserError("has no block 'curve:' of lines with four blanks", where=str(profile))
    profile.write_text(text, encoding="utf-8")


def _text(block: dict[str, Any]) -> str:
    body = yaml.safe_dump(block, sort_keys=False, width=94, allow_unicode=True)
    return "  curve:\n" + "".join(f"    {line}\n" for line in body.splitlines())


def pass_on(profiles: Path, device: str) -> list[str]:
    """Gives the curve of a device to those that have it from there; returns their names."""
    curve = {
        name: value
        for name, value in shipped_curve(profiles / f"{device}.yaml").items()
        if name != "provenance"
    }
    heirs = []
    for profile in sorted(profiles.glob("*.yaml")):
        told = shipped_curve(profile)["provenance"]
        if told["method"] == "inherited" and told["detail"].startswith(f"from {device},"):
            write_curve(profile, {**curve, "provenance": told | {"date": AS_OF}})
            heirs.append(profile.stem)
    return heirs
