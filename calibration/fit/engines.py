"""What is fitted for an engine, from which rows, and where the result stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from calibration.fit.blocks import Markers
from calibration.validate.formats import target
from calibration.validate.point import Point
from calibration.validate.protocol import exclusion, scenario_of
from calibration.validate.runner import write_trace
from simulator import Scenario
from simulator.engines.profile import Overheads, Release, release_number
from simulator.errors import UserError
from simulator.scenario.base import Model
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "engines.yaml"
MARKERS = Markers(
    "# --- overheads: written by `simulate fit --served`, do not edit by hand ---",
    "# --- end of overheads ---",
)

METRICS = ("ttft_ms", "tpot_ms")


@dataclass(frozen=True)
class Constant:
    """A constant that is fitted: where it stands, its upper bound, a distance that matters, and
    values to start from where it is a floor, which shows only once it binds."""

    part: str
    name: str
    most: float
    scale: float
    starts: tuple[float, ...] = ()


CONSTANTS = (
    Constant("host", "step_ms", 8.0, 0.5),
    Constant("host", "per_seq_us", 120.0, 12.0),
    Constant("launches", "kernel_us", 120.0, 15.0, (6.0, 30.0, 55.0, 80.0)),
    Constant("launches", "piece_us", 600.0, 100.0, (50.0, 200.0, 400.0)),
    Constant("front_end", "request_ms", 60.0, 4.0),
    Constant("front_end", "random_us_per_token", 15.0, 3.0),
    Constant("front_end", "token_us", 150.0, 30.0),
)


class EngineFits(Model):
    """What is fitted for one shipped engine."""

    engine: str
    before: tuple[Release | None, ...]
    prior: dict[str, float]
    prior_before: dict[Release, dict[str, float]] = {}
    fixed: dict[str, float]
    source: str


class WithoutTtft(Model):
    """A group whose TTFT says nothing about the engine."""

    group: str
    reason: str


class Engines(Model):
    """The file of engines."""

    engines: tuple[EngineFits, ...]
    without_ttft: tuple[WithoutTtft, ...] = ()


@cache
def engines() -> Engines:
    """What comes with the product."""
    return read_model(FILE, Engines)


@dataclass(frozen=True)
class Row:
    """A measured point with the scenario that replays it."""

    point: Point
    scenario: Scenario
    metrics: tuple[str, ...]


def rows_of(points: Sequence[Point], engine: str, folder: Path) -> list[Row]:
    """The points of an engine that can be replayed and have a TTFT or TPOT; the requests of those
    that were recorded one by one go to ``folder``."""
    ignored = {entry.group for entry in engines().without_ttft}
    rows = []
    for point in points:
        try:
            found = target(point)
            if found.engine.name != engine or exclusion(point, found):
                continue
            scenario = scenario_of(point, found)
        except UserError:
            continue
        metrics = tuple(
            metric
            for metric in METRICS
            if point.statistic in getattr(point.measured, metric)
            and not (metric == "ttft_ms" and point.group in ignored)
        )
        if metrics:
            if point.trace is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_trace(point, folder)
            rows.append(Row(point, scenario, metrics))
    return rows


def within(row: Row, low: str | None, before: str | None) -> bool:
    """Whether a row's release lies from ``low`` on (None: from the first) and below ``before``
    (None: the newest too); a row without a release counts as newest."""
    version = row.scenario.engine.version
    if version is None:
        return before is None
    number = release_number(version)
    above = low is None or number >= release_number(low)
    return above and (before is None or number < release_number(before))


def prior_overheads(plan: EngineFits, before: str | None) -> Overheads:
    """What a range of releases has before anything is fitted."""
    values = plan.prior | plan.fixed | plan.prior_before.get(before or "", {})
    host = ("step_ms", "per_seq_us", "overlap")
    launches = ("kernel_us", "piece_us")
    parts: dict[str, Any] = {
        "host": {name: values[name] for name in host},
        "launches": {name: values[name] for name in launches},
        "front_end": {n: v for n, v in values.items() if n not in host + launches},
    }
    return Overheads.model_validate({"before": before, **parts, "source": plan.source})


def constants_of(rows: Sequence[Row]) -> tuple[Constant, ...]:
    """What is fitted: of the two constants for a prompt's tokens, the one that the rows feel."""
    if any(row.scenario.engine.random_prompts for row in rows):
        return CONSTANTS
    return tuple(
        replace(c, name="busy_us_per_token") if c.name == "random_us_per_token" else c
        for c in CONSTANTS
    )


def overheads_text(overheads: Sequence[Overheads]) -> str:
    """Overheads as they stand in a profile's file."""
    entries = [entry.model_dump(mode="json", exclude_none=True) for entry in overheads]
    for entry in entries:
        if "fit" in entry:  # pairs stay on their line
            spread = entry["fit"]["left_out_spread"]
            entry["fit"]["left_out_spread"] = {key: list(pair) for key, pair in spread.items()}
    text: str = yaml.safe_dump(
        {"overheads": entries}, sort_keys=False, width=98, allow_unicode=True,
        default_flow_style=None,
    )  # fmt: skip
    return text


def profile_file(name: str) -> Path:
    """The file of a shipped engine profile."""
    return Path(str(files("simulator.engines.profiles"))) / f"{name}.yaml"
