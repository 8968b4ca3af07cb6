"""Engine constants from measured servers: what is left once the kernels are fixed.

The constants are host time a step and a sequence, launches outside graphs, and the front end. Each
is bounded by what is physically possible and held near a prior where the rows do not tell it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field
from scipy.optimize import least_squares

from calibration.fit.blocks import Markers
from calibration.validate.formats import target
from calibration.validate.metrics import Comparison, errors
from calibration.validate.point import Point
from calibration.validate.prediction import Prediction, predict
from calibration.validate.protocol import exclusion, scenario_of
from calibration.validate.runner import pool_for, write_trace
from calibration.validate.splits import group_seen, half_of
from simulator import Scenario
from simulator.engines.profile import EngineProfile, Overheads, Release, ServedFit, release_number
from simulator.errors import UserError
from simulator.scenario.base import Model
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "engines.yaml"
MARKERS = Markers(
    "# --- overheads: written by `simulate fit --served`, do not edit by hand ---",
    "# --- end of overheads ---",
)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

METRICS = ("ttft_ms", "tpot_ms")
NARROW = 0.06
"""Errors beyond this (of the logarithm) count less and less."""
PULL = 0.06
"""What a constant's distance from its prior, in its scale, costs: an error of one figure."""
ROUNDS = 10
_MANY = 1 << 20


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
LeftOut = dict[str, list[float]]
"""By metric, ln(measured / predicted) of every row, with constants fitted without its group."""


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
    rows = rows_of(points, profile.name, folder)
    found: list[Overheads] = []
    off: LeftOut = {metric: [] for metric in METRICS}
    with evaluator(folder) as evaluate:
        low = None
        for before in plan.before:
            start = _overheads(plan, before)
            own = [row for row in rows if _within(row, low, before)]
            low = before
            fitted = [row for row in own if half_of(row.point) == "fit"]
            held = [row for row in own if group_seen(row.point) and row not in fitted]
            if fitted:
                start, left_out = _fit(profile, start, fitted, held, evaluate, say)
                for metric in METRICS:
                    off[metric] += left_out[metric]
            found.append(start)
    # Ranges have one to three groups each, too few to tell how far off another one would be.
    spread = {metric: _quantiles(off[metric]) for metric in METRICS}
    return tuple(
        entry.model_copy(update={"fit": entry.fit.model_copy(update={"left_out_spread": spread})})
        if entry.fit
        else entry
        for entry in found
    )


def fit_own(
    profile: EngineProfile, points: Sequence[Point], folder: Path, say: Say
) -> EngineProfile:
    """An engine profile whose overheads are fitted to all points, whatever their release, from the
    profile's own as prior.

    Raises:
        UserError: no point is of this engine.
    """
    rows = rows_of(points, profile.name, folder)
    if not rows:
        raise UserError(
            f"no row of {profile.title} with a TTFT or TPOT can be simulated",
            hint="`simulate validate` says why rows are left out",
        )
    with evaluator(folder) as evaluate:
        found, _ = _fit(profile, profile.overheads[-1], rows, [], evaluate, say)
    return profile.model_copy(update={"overheads": (found,), "earlier": ()})


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
    values = plan.prior | plan.fixed | plan.prior_before.get(before or "", {})
    host = ("step_ms", "per_seq_us", "overlap")
    launches = ("kernel_us", "piece_us")
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
) -> tuple[Overheads, LeftOut]:
    constants = constants_of(rows)
    prior = np.array([getattr(getattr(start, c.part), c.name) for c in constants])
    most = np.array([c.most for c in constants])
    scale = np.array([c.scale for c in constants])
    logs = [
        (i, metric, np.log(getattr(row.point.measured, metric)[row.point.statistic]))
        for i, row in enumerate(rows)
        for metric in row.metrics
    ]

    def profiles(values: Floats) -> EngineProfile:
        entry = _with(start, constants, values)
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

    first = prior
    for place_of, constant in enumerate(constants):
        tries = [first, *(_changed(first, place_of, value) for value in constant.starts)]
        costs = [float(_loss(found).sum()) for found in residuals(tries)] if tries[1:] else [0.0]
        first = tries[int(np.argmin(costs))]
    best = least_squares(
        lambda values: residuals([values])[0],
        first, jac=jacobian, bounds=(0.0, most), x_scale=scale, loss="soft_l1", f_scale=NARROW,
        max_nfev=ROUNDS, xtol=1e-3, ftol=1e-3,
    )  # fmt: skip
    values = np.array([float(f"{value:.3g}") for value in best.x])
    found = _with(start, constants, values)
    groups = np.array([rows[i].point.group for i, _, _ in logs])
    off: LeftOut = {metric: [] for metric in METRICS}
    for group in sorted(set(groups)):
        mine = np.concatenate([groups == group, np.zeros(len(prior), dtype=bool)])
        if (groups == group).all():
            tries = [prior]
        else:
            step = _left_out(best.x, best.fun, best.jac, mine) - best.x
            tries = [np.clip(best.x + part * step, 0.0, most) for part in (1.0, 0.5, 0.2, 0.0)]
        alone = min(residuals(tries), key=lambda found: float(_loss(found[~mine]).sum()))
        for number in np.flatnonzero(mine):
            off[logs[number][1]].append(-float(alone[number]))
    told = _told(profile, found, rows, held, evaluate, off)
    say(_line(found, constants, told))
    return found.model_copy(update={"fit": told}), off


def _left_out(values: Floats, residuals: Floats, jacobian: Floats, mine: Flags) -> Floats:
    """What the constants would be without some of the residuals: one Gauss-Newton step from the fit
    of all, with the weights of the robust loss."""
    stretch = 1.0 + (residuals / NARROW) ** 2
    plain = jacobian * (stretch**0.75)[:, None]  # undoes how least_squares scales it
    weight = stretch**-0.5
    others = plain[~mine] * np.sqrt(weight[~mine])[:, None]
    pull = plain[mine].T @ (weight[mine] * residuals[mine])
    step: Floats = np.linalg.solve(others.T @ others, pull)
    return values + step


def _quantiles(logs: Sequence[float]) -> tuple[float, float]:
    if not logs:
        return (0.0, 0.0)
    low, high = np.quantile(logs, (0.1, 0.9))
    return round(float(low), 3), round(float(high), 3)


def _changed(values: Floats, place: int, value: float) -> Floats:
    changed = values.copy()
    changed[place] = value
    return changed


def _loss(residuals: Floats) -> Floats:
    """What ``least_squares`` calls soft_l1."""
    squared = (residuals / NARROW) ** 2
    loss: Floats = 2.0 * (np.sqrt(1.0 + squared) - 1.0)
    return loss


def constants_of(rows: Sequence[Row]) -> tuple[Constant, ...]:
    """What is fitted: of the two constants for a prompt's tokens, the one that the rows feel."""
    if any(row.scenario.engine.random_prompts for row in rows):
        return CONSTANTS
    return tuple(
        replace(c, name="busy_us_per_token") if c.name == "random_us_per_token" else c
        for c in CONSTANTS
    )


def _with(start: Overheads, constants: Sequence[Constant], values: Floats) -> Overheads:
    changes: dict[str, dict[str, float]] = {}
    for constant, value in zip(constants, values, strict=True):
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
    off: LeftOut,
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
        digest.update(row.point.model_dump_json(exclude_defaults=True).encode() + b"\0")
    dates = [row.point.measured_on for row in rows if row.point.measured_on]
    return ServedFit.model_validate(
        {
            "newest": max(dates, default=None),
            "data_sha256": digest.hexdigest(),
            "rows": len(rows),
            "groups": sorted({row.point.group for row in rows}),
            **_summary("fitted", rows, fitted),
            "left_out_spread": {metric: _quantiles(off[metric]) for metric in METRICS},
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


def _line(found: Overheads, constants: Sequence[Constant], told: ServedFit) -> str:
    values = ", ".join(f"{c.name} {getattr(getattr(found, c.part), c.name):g}" for c in constants)
    ranges = f"before {found.before}" if found.before else "all later"
    off = ", ".join(
        f"{metric.removesuffix('_ms').upper()} {told.fitted_median_pct[metric]:.1f}% "
        f"(held out {told.held_out_median_pct.get(metric, float('nan')):.1f}%)"
        for metric in told.fitted_median_pct
    )
    return f"{ranges}: {told.rows} rows; {values}; {off}"
