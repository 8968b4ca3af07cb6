"""Engine constants from measured servers: what is left once the kernels are fixed.

The constants are host time a step and a sequence, launches outside graphs, and the front end. Each
is bounded by what is physically possible and held near a prior where the rows do not tell it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import least_squares

from calibration.validate.formats import target
from calibration.validate.metrics import Comparison, errors
from calibration.validate.point import Point
from calibration.validate.prediction import Prediction, predict
from calibration.validate.protocol import exclusion, scenario_of
from calibration.validate.runner import pool_for
from calibration.validate.splits import group_seen, half_of
from simulator import Scenario
from simulator.engines.profile import EngineProfile, Overheads, Release, ServedFit, release_number
from simulator.errors import UserError
from simulator.scenario.base import Model
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "engines.yaml"

Floats = npt.NDArray[np.float64]

METRICS = ("ttft_ms", "tpot_ms")
NARROW = 0.06
"""Errors beyond this (of the logarithm) count less and less."""
PULL = 0.06
"""What a constant's distance from its prior, in its scale, costs: an error of one figure."""
ROUNDS = 10
_MANY = 1 << 20


@dataclass(frozen=True)
class Constant:
    """A constant that is fitted: where it stands, its upper bound, and a distance that matters."""

    part: str
    name: str
    most: float
    scale: float


CONSTANTS = (
    Constant("host", "step_ms", 8.0, 0.5),
    Constant("host", "per_seq_us", 120.0, 12.0),
    Constant("launches", "layer_us", 1000.0, 150.0),
    Constant("launches", "piece_us", 400.0, 100.0),
    Constant("front_end", "request_ms", 60.0, 4.0),
    Constant("front_end", "token_us", 150.0, 30.0),
)


class EngineFits(Model):
    """What is fitted for one shipped engine."""

    engine: str
    before: tuple[Release | None, ...]
    prior: dict[str, float]
    fixed: dict[str, float]
    source: str


class WithoutTtft(Model):
    """A group whose TTFT says nothing about the engine."""

    group: str
    reason: str


class Engines(Model):
    """The file of engines."""

    engines: tuple[EngineFits, ...]
    without_ttft: tuple[WithoutTtft, ...] = Field(())


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


Evaluate = Callable[[Sequence[tuple[Scenario, EngineProfile]]], list[Prediction]]
Say = Callable[[str], None]


def rows_of(points: Sequence[Point], engine: str) -> list[Row]:
    """The points of an engine that can be replayed and have a mean TTFT or TPOT."""
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
            rows.append(Row(point, scenario, metrics))
    return rows


def fit_engine(
    profile: EngineProfile, points: Sequence[Point], folder: Path, say: Say
) -> tuple[Overheads, ...]:
    """Overheads of a shipped engine for every range of releases, from the fit half of the points.

    Args:
        profile: the engine's; its own overheads do not matter.
        points: all of a dataset.
        folder: for the requests of points that are replayed.
        say: called with a line for each fit.
    """
    plan = next((entry for entry in engines().engines if entry.engine == profile.name), None)
    if plan is None:
        known = ", ".join(entry.engine for entry in engines().engines)
        raise UserError(
            f"nothing says how to fit {profile.name}", where=str(FILE), hint=f"it has {known}"
        )
    rows = rows_of(points, profile.name)
    found: list[Overheads] = []
    with evaluator(folder) as evaluate:
        low = None
        for before in plan.before:
            start = _overheads(plan, before)
            own = [row for row in rows if _within(row, low, before)]
            low = before
            fitted = [row for row in own if half_of(row.point) == "fit"]
            held = [row for row in own if group_seen(row.point) and row not in fitted]
            if fitted:
                start = _fit(profile, start, fitted, held, evaluate, say)
            found.append(start)
    return tuple(found)


def fit_own(
    profile: EngineProfile, points: Sequence[Point], folder: Path, say: Say
) -> EngineProfile:
    """An engine profile whose overheads are fitted to all points, whatever their release, from the
    profile's own as prior.

    Raises:
        UserError: no point is of this engine.
    """
    rows = rows_of(points, profile.name)
    if not rows:
        raise UserError(
            f"no row of {profile.title} with a TTFT or TPOT can be simulated",
            hint="`simulate validate` says why rows are left out",
        )
    with evaluator(folder) as evaluate:
        found = _fit(profile, profile.overheads[-1], rows, [], evaluate, say)
    return profile.model_copy(update={"overheads": (found,), "earlier": ()})


@contextmanager
def evaluator(folder: Path) -> Iterator[Evaluate]:
    """Simulates many scenarios with many engines, on all cores."""
    with pool_for(_MANY) as pool:
        yield lambda jobs: _predictions(pool, jobs, folder)


def _predictions(
    pool: ProcessPoolExecutor | None, jobs: Sequence[tuple[Scenario, EngineProfile]], folder: Path
) -> list[Prediction]:
    if pool is None:
        return [predict(scenario, folder, engine) for scenario, engine in jobs]
    scenarios, profiles = zip(*jobs, strict=True)
    return list(pool.map(predict, scenarios, [folder] * len(jobs), profiles, chunksize=4))


def _within(row: Row, low: str | None, before: str | None) -> bool:
    version = row.scenario.engine.version
    if version is None:
        return before is None
    number = release_number(version)
    above = low is None or number >= release_number(low)
    return above and (before is None or number < release_number(before))


def _overheads(plan: EngineFits, before: str | None) -> Overheads:
    values = plan.prior | plan.fixed
    host = ("step_ms", "per_seq_us", "overlap")
    launches = ("layer_us", "piece_us")
    parts: dict[str, Any] = {
        "host": {name: values[name] for name in host},
        "launches": {name: values[name] for name in launches},
        "front_end": {n: v for n, v in values.items() if n not in host + launches},
    }
    return Overheads.model_validate({"before": before, **parts, "source": plan.source})


def _fit(
    profile: EngineProfile,
    start: Overheads,
    rows: Sequence[Row],
    held: Sequence[Row],
    evaluate: Evaluate,
    say: Say,
) -> Overheads:
    prior = np.array([getattr(getattr(start, c.part), c.name) for c in CONSTANTS])
    most = np.array([c.most for c in CONSTANTS])
    scale = np.array([c.scale for c in CONSTANTS])
    logs = [
        (i, metric, np.log(getattr(row.point.measured, metric)[row.point.statistic]))
        for i, row in enumerate(rows)
        for metric in row.metrics
    ]

    def profiles(values: Floats) -> EngineProfile:
        entry = _with(start, values)
        return profile.model_copy(
            update={"overheads": (entry.model_copy(update={"before": None}),)}
        )

    # A deployment that was measured several times is simulated once.
    distinct: dict[str, int] = {}
    place = [distinct.setdefault(row.scenario.model_dump_json(), len(distinct)) for row in rows]
    scenarios = [rows[place.index(i)].scenario for i in range(len(distinct))]

    def residuals(many: Sequence[Floats]) -> list[Floats]:
        jobs = [(scenario, profiles(values)) for values in many for scenario in scenarios]
        found = evaluate(jobs)
        result = []
        for number, values in enumerate(many):
            part = found[number * len(scenarios) : (number + 1) * len(scenarios)]
            own = [part[i] for i in place]
            off = [_log(own[i], rows[i], metric) - log for i, metric, log in logs]
            result.append(np.array([*off, *(PULL * (values - prior) / scale)]))
        return result

    def jacobian(values: Floats) -> Floats:
        # Wide steps: times are not smooth in a constant, and a floor is felt only where it binds.
        steps = np.where(values + scale / 2 <= most, scale / 2, -scale / 2)
        many = [values, *(values + np.diag(steps))]
        first, *moved = residuals(many)
        return np.stack(
            [(other - first) / step for other, step in zip(moved, steps, strict=True)], axis=1
        )

    best = least_squares(
        lambda values: residuals([values])[0],
        prior, jac=jacobian, bounds=(0.0, most), x_scale=scale, loss="soft_l1", f_scale=NARROW,
        max_nfev=ROUNDS, xtol=1e-3, ftol=1e-3,
    )  # fmt: skip
    values = np.array([float(f"{value:.3g}") for value in best.x])
    found = _with(start, values)
    told = _told(profile, found, rows, held, evaluate)
    say(_line(found, told))
    return found.model_copy(update={"fit": told})


def _with(start: Overheads, values: Floats) -> Overheads:
    changes: dict[str, dict[str, float]] = {}
    for constant, value in zip(CONSTANTS, values, strict=True):
        changes.setdefault(constant.part, {})[constant.name] = float(value)
    parts = {
        part: getattr(start, part).model_copy(update=change) for part, change in changes.items()
    }
    return start.model_copy(update=parts)


def _log(prediction: Prediction, row: Row, metric: str) -> float:
    if "refused" in prediction:
        raise UserError(
            f"{row.point.id} cannot be simulated: {prediction['refused']}",
            hint="leave the row out",
        )
    return float(np.log(prediction[metric][row.point.statistic]))


def _told(
    profile: EngineProfile,
    found: Overheads,
    rows: Sequence[Row],
    held: Sequence[Row],
    evaluate: Evaluate,
) -> ServedFit:
    final = profile.model_copy(update={"overheads": (found.model_copy(update={"before": None}),)})
    both = [*rows, *held]
    predictions = evaluate([(row.scenario, final) for row in both])
    pairs = [
        Comparison(row.point, prediction, "fit", seen=True)
        for row, prediction in zip(both, predictions, strict=True)
    ]
    fitted, kept = pairs[: len(rows)], pairs[len(rows) :]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.point.model_dump_json().encode() + b"\0")
    dates = [row.point.measured_on for row in rows if row.point.measured_on]
    return ServedFit.model_validate(
        {
            "newest": max(dates, default=None),
            "data_sha256": digest.hexdigest(),
            "rows": len(rows),
            "groups": sorted({row.point.group for row in rows}),
            **_summary("fitted", rows, fitted),
            "held_out_rows": len(held),
            **(_summary("held_out", held, kept) if held else {}),
        }
    )


def _summary(
    name: str, rows: Sequence[Row], pairs: Sequence[Comparison]
) -> dict[str, dict[str, float]]:
    medians, biases = {}, {}
    for metric in METRICS:
        own = [pair for row, pair in zip(rows, pairs, strict=True) if metric in row.metrics]
        found = errors(own, metric)
        if found.n:
            medians[metric] = round(found.median_ape_pct, 1)
            biases[metric] = round(found.bias_ratio, 3)
    return {f"{name}_median_pct": medians, f"{name}_bias": biases}


def _line(found: Overheads, told: ServedFit) -> str:
    constants = ", ".join(
        f"{c.name} {getattr(getattr(found, c.part), c.name):g}" for c in CONSTANTS
    )
    ranges = f"before {found.before}" if found.before else "all later"
    off = ", ".join(
        f"{metric.removesuffix('_ms').upper()} {told.fitted_median_pct[metric]:.1f}% "
        f"(held out {told.held_out_median_pct.get(metric, float('nan')):.1f}%)"
        for metric in told.fitted_median_pct
    )
    return f"{ranges}: {told.rows} rows; {constants}; {off}"
