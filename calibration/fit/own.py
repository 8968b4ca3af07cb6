"""An engine profile of one's own, from a handful of measured servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.fit.engines import Row, constants_of, rows_of
from calibration.fit.served import ROUNDS, TRIES, Say, evaluator, fit_rows
from calibration.validate.metrics import Errors
from calibration.validate.point import Point
from simulator.engines.profile import EngineProfile
from simulator.errors import UserError
from simulator.yamlio import dump_yaml


@dataclass(frozen=True, slots=True)
class Check:
    """One measured figure, and what is predicted for it, in ms.

    Args:
        id: of the row.
        metric: ``ttft_ms`` or ``tpot_ms``.
        measured: by the row.
        before: predicted with the profile as it was.
        after: predicted with the fit, which has seen this row.
        left_out: predicted with constants fitted without this row, or without all rows of its
            group where there are several groups.
    """

    id: str
    metric: str
    measured: float
    before: float
    after: float
    left_out: float


@dataclass(frozen=True, slots=True)
class OwnFit:
    """A fit to one's own servers.

    Args:
        profile: with overheads for all releases.
        checks: how far predictions were and are off, in the order of the rows.
        left_out_by: what is left out at a time: ``group`` or ``row``.
        rows: how many rows were fitted.
        given: how many rows there were; the others are of other engines, cannot be simulated, or
            have neither TTFT nor TPOT.
    """

    profile: EngineProfile
    checks: tuple[Check, ...]
    left_out_by: str
    rows: int
    given: int

    def errors(self, metric: str, which: str) -> Errors:
        """Errors of ``ttft_ms`` or ``tpot_ms``, ``before``, ``after`` or ``left_out``."""
        return Errors.of(
            (check.measured, getattr(check, which))
            for check in self.checks
            if check.metric == metric
        )


def fit_own(
    profile: EngineProfile, points: Sequence[Point], folder: Path, say: Say
) -> EngineProfile:
    """An engine profile whose overheads are fitted to all points, whatever their release, from the
    profile's own as prior.

    Args:
        profile: the engine's.
        points: of a dataset.
        folder: for the requests of points that are replayed.
        say: called with what there is to tell.

    Raises:
        UserError: no point is of this engine, or one of them cannot be simulated.
    """
    rows = _rows(profile, points, folder, say)
    with evaluator(folder) as evaluate:
        fitted = fit_rows(profile, profile.overheads[-1], rows, [], evaluate, say)
    return profile.model_copy(update={"overheads": (fitted.overheads,)})


def fit_own_checked(
    profile: EngineProfile,
    points: Sequence[Point],
    folder: Path,
    say: Say,
    heard: Callable[[int, int], None] | None = None,
) -> OwnFit:
    """The same fit, held against what the profile said before and against rows left out.

    Rows of one group (model, GPU, engine, version, precision) are left out together, as for the
    profile's own spread; where all are of one group, each row is left out by itself. The constants
    without them are the best point on one Gauss-Newton step from the fit of all.

    Args:
        profile, points, folder, say: see ``fit_own``.
        heard: called after each simulation with how many there were, and how many there will be at
            most; what it raises ends the fit.

    Raises:
        UserError: see ``fit_own``.
    """
    rows = _rows(profile, points, folder, say)
    groups = {row.point.group for row in rows}
    most = _most(rows, len(groups), len(groups) if len(groups) > 1 else len(rows))
    told = None if heard is None else lambda done: heard(done, most)
    with evaluator(folder, told) as evaluate:
        before = evaluate([(row.scenario, profile) for row in rows])
        fitted = fit_rows(profile, profile.overheads[-1], rows, [], evaluate, say)
        own = profile.model_copy(update={"overheads": (fitted.overheads,)})
        after = evaluate([(row.scenario, own) for row in rows])
        by_group = len(groups) > 1
        points_of = [rows[place].point for place, _ in fitted.figures]
        off = fitted.left_out([p.group if by_group else p.id for p in points_of])
    checks = []
    for (place, metric), log in zip(fitted.figures, off, strict=True):
        point = rows[place].point
        value = getattr(point.measured, metric)[point.statistic]
        checks.append(
            Check(
                point.id, metric, value, before[place][metric][point.statistic],
                after[place][metric][point.statistic], value * float(np.exp(log)),
            )
        )  # fmt: skip
    by = "group" if by_group else "row"
    return OwnFit(own, tuple(checks), by, len(rows), len(points))


def profile_text(profile: EngineProfile) -> str:
    """An engine profile as a YAML file, which a scenario may name as ``engine.profile``."""
    return dump_yaml(profile.model_dump(mode="json", exclude_none=True))


def _most(rows: Sequence[Row], groups: int, labels: int) -> int:
    """How many simulations a checked fit takes at most."""
    constants = constants_of(rows)
    starts = sum(1 + len(constant.starts) for constant in constants if constant.starts)
    search = ROUNDS * (len(constants) + 2)
    return len(rows) * (3 + starts + search + TRIES * (groups + labels))


def _rows(profile: EngineProfile, points: Sequence[Point], folder: Path, say: Say) -> list[Row]:
    rows = rows_of(points, profile.name, folder)
    if not rows:
        raise UserError(
            f"no row of {profile.title} with a TTFT or TPOT can be simulated",
            hint="`simulate validate` says why rows are left out",
        )
    if len(rows) < len(points):
        say(f"{len(points) - len(rows)} of {len(points)} rows are of other engines, cannot be "
            "simulated or have neither TTFT nor TPOT")  # fmt: skip
    return rows
