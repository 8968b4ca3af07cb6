"""Engine constants from measured servers: what is left once the kernels are fixed.

The constants are host time a step and a sequence, launches outside graphs, and the front end. Each
is bounded by what is physically possible and held near a prior where the rows do not tell it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from calibration.fit.engines import (
    FILE,
    METRICS,
    Constant,
    Row,
    constants_of,
    engines,
    prior_overheads,
    rows_of,
    within,
)
from calibration.validate.metrics import Comparison, errors
from calibration.validate.point import Point
from calibration.validate.prediction import Prediction, predict
from calibration.validate.runner import pool_for
from calibration.validate.splits import group_seen, half_of
from simulator import Scenario
from simulator.engines.profile import EngineProfile, Overheads, ServedFit
from simulator.errors import UserError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NARROW = 0.06
"""Errors beyond this (of the logarithm) count less and less."""
PULL = 0.06
"""What a constant's distance from its prior, in its scale, costs: an error of one figure."""
ROUNDS = 10
PARTS = (1.0, 0.5, 0.2, 0.0)
"""Of the step to the constants without some rows, which are tried."""
TRIES = len(PARTS)
FEWEST = 5
"""Values from which quantiles are taken."""
_MANY = 1 << 20

Evaluate = Callable[[Sequence[tuple[Scenario, EngineProfile]]], list[Prediction]]
Say = Callable[[str], None]
Heard = Callable[[int], None]
"""Called after each simulation with how many there were."""
LeftOut = dict[str, list[float]]
"""By metric, ln(measured / predicted) of every row, with constants fitted without its group."""


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
            start = prior_overheads(plan, before)
            own = [row for row in rows if within(row, low, before)]
            low = before
            fitted = [row for row in own if half_of(row.point) == "fit"]
            held = [row for row in own if group_seen(row.point) and row not in fitted]
            if fitted:
                result = fit_rows(profile, start, fitted, held, evaluate, say)
                start = result.overheads
                for metric in METRICS:
                    off[metric] += result.off[metric]
            found.append(start)
    # Ranges have one to three groups each, too few to tell how far off another one would be.
    spread = _spread(off)
    return tuple(
        entry.model_copy(update={"fit": entry.fit.model_copy(update={"left_out_spread": spread})})
        if entry.fit
        else entry
        for entry in found
    )


@dataclass(frozen=True)
class Fitted:
    """Overheads that are fitted to rows.

    Args:
        overheads: with what was read and how far off they are.
        figures: what was fitted: place of the row, and metric.
        off: by metric, for rows whose group is left out.
        left_out: by a label for each figure, its ln(predicted / measured) with constants that are
            fitted without the figures of its label.
    """

    overheads: Overheads
    figures: tuple[tuple[int, str], ...]
    off: LeftOut
    left_out: Callable[[Sequence[str]], Floats]


@contextmanager
def evaluator(folder: Path, heard: Heard | None = None) -> Iterator[Evaluate]:
    """Simulates many scenarios with many engines, on all cores.

    Args:
        folder: that paths of the scenarios start from.
        heard: called after each simulation with how many there were; what it raises ends all.
    """
    done = count(1)

    def listened(predictions: Iterable[Prediction]) -> list[Prediction]:
        found = []
        for prediction in predictions:
            found.append(prediction)
            if heard is not None:
                heard(next(done))
        return found

    with pool_for(_MANY) as pool:

        def evaluate(jobs: Sequence[tuple[Scenario, EngineProfile]]) -> list[Prediction]:
            if pool is None:
                return listened(predict(scenario, folder, engine) for scenario, engine in jobs)
            scenarios, profiles = zip(*jobs, strict=True)
            folders = [folder] * len(jobs)
            return listened(pool.map(predict, scenarios, folders, profiles, chunksize=4))

        yield evaluate


def fit_rows(
    profile: EngineProfile,
    start: Overheads,
    rows: Sequence[Row],
    held: Sequence[Row],
    evaluate: Evaluate,
    say: Say,
) -> Fitted:
    """Fits one set of overheads to rows.

    Args:
        profile: the engine's; its own overheads do not matter.
        start: the prior.
        rows: to fit to.
        held: rows whose errors are told as well.
        evaluate: from ``evaluator``.
        say: called with a line about the result.

    Raises:
        UserError: a row cannot be simulated.
    """
    constants = constants_of(rows)
    prior = np.array([getattr(getattr(start, c.part), c.name) for c in constants])
    most = np.array([c.most for c in constants])
    scale = np.array([c.scale for c in constants])
    prior = np.minimum(prior, most)
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

    def left_out(labels: Sequence[str]) -> Floats:
        names = np.array(labels)
        off = np.empty(len(names))
        for name in sorted(set(labels)):
            mine = np.concatenate([names == name, np.zeros(len(prior), dtype=bool)])
            if (names == name).all():
                tries = [prior]
            else:
                step = _left_out(best.x, best.fun, best.jac, mine) - best.x
                tries = [np.clip(best.x + part * step, 0.0, most) for part in PARTS]
            alone = min(residuals(tries), key=lambda found: float(_loss(found[~mine]).sum()))
            off[names == name] = alone[: len(names)][names == name]
        return off

    groups = [rows[i].point.group for i, _, _ in logs]
    off: LeftOut = {metric: [] for metric in METRICS}
    both = list(zip(groups, logs, left_out(groups), strict=True))
    for _, (_, metric, _), value in sorted(both, key=lambda item: item[0]):
        off[metric].append(-float(value))
    told = _told(profile, found, rows, held, evaluate, off)
    say(_line(found, constants, told))
    figures = tuple((i, metric) for i, metric, _ in logs)
    return Fitted(found.model_copy(update={"fit": told}), figures, off, left_out)


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


def _spread(off: LeftOut) -> dict[str, tuple[float, float]]:
    """10 and 90% quantiles by metric, where there are enough values to speak of any."""
    found = {}
    for metric, logs in off.items():
        if len(logs) >= FEWEST:
            low, high = np.quantile(logs, (0.1, 0.9))
            found[metric] = (round(float(low), 3), round(float(high), 3))
    return found


def _changed(values: Floats, place: int, value: float) -> Floats:
    changed = values.copy()
    changed[place] = value
    return changed


def _loss(residuals: Floats) -> Floats:
    """What ``least_squares`` calls soft_l1."""
    squared = (residuals / NARROW) ** 2
    loss: Floats = 2.0 * (np.sqrt(1.0 + squared) - 1.0)
    return loss


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
    value = prediction[metric][row.point.statistic]
    if not value:
        raise UserError(
            f"{row.point.id} has no predicted {metric}: no request of it gets that far",
            hint="leave the row out",
        )
    return float(np.log(value))


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
            "left_out_spread": _spread(off),
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
        f"{metric.removesuffix('_ms').upper()} {own:.1f}%"
        + (f" (held out {told.held_out_median_pct[metric]:.1f}%)" if told.held_out_rows else "")
        for metric, own in told.fitted_median_pct.items()
    )
    return f"{ranges}: {told.rows} rows; {values}; {off}"
