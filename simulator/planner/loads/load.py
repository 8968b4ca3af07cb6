"""Latency and throughput as the load grows: the curve, and where it saturates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.tasks import Outcome
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import limits_of, overloaded
from simulator.planner.loads.highest import highest_rate
from simulator.planner.loads.knee import Knee, LoadPoint, around_knee, knee_of, throughput
from simulator.planner.loads.load_task import FIGURES, check_scalable, loads_of, number_at, task_at
from simulator.results.definitions import value_at
from simulator.scenario import Scenario

METRIC = "e2e_ms.mean"
"""Latency whose knee is looked for, unless another one is named."""

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)
"""Of the load that saturates the deployment."""

_QUICK = (0.1, 0.4, 0.6, 0.8, 0.95, 1.2)
_GAINS = 0.75
"""Doubling the load of a deployment that is not saturated doubles the throughput, nearly; of closed
loops, whose users wait, it raises it by half of that."""

_EDGE = 1.15
"""Factor to which it is told where the deployment stops to keep up."""

_FIRST = 1.0
_MOST_DOUBLINGS = 12
_LEAST = 1e-3
_REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class LoadCurve:
    """Points from light load to beyond saturation.

    Args:
        name: of the scenario.
        points: by rising load.
        knee: None if the latency is undefined.
        saturation_per_s: highest throughput of any point, requests/s.
        simulations: runs behind it.
    """

    name: str
    points: tuple[LoadPoint, ...]
    knee: Knee | None
    saturation_per_s: float
    simulations: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def load_curve(
    scenario: Scenario,
    work: Workplace,
    *,
    metric: str = METRIC,
    factors: Sequence[float] | None = None,
    also: Sequence[float] = (),
    quick: bool = False,
) -> LoadCurve:
    """Simulates the scenario with its traffic scaled, the same requests at every load.

    Args:
        scenario: what to simulate; its own traffic is the factor 1.
        work: where the simulations are done.
        metric: latency whose knee is looked for, as a path in the summary; ``latency.`` may be
            left out.
        factors: loads to look at; default: from a tenth of what saturates the deployment to a
            quarter beyond it, and some around the knee.
        also: further loads.
        quick: fewer points, none around the knee.

    Raises:
        UserError: the traffic has no rate that could be scaled, the deployment cannot be simulated,
            or there is no such metric.
    """
    path = _path(metric)
    check_scalable(scenario)
    probe = _Probe(scenario, work, (*FIGURES, path))
    probe.at(also)
    if factors is not None:
        probe.at(factors)
        points = probe.points()
        return LoadCurve(scenario.name, points, knee_of(points, path), _best(points), len(points))
    saturating = _saturating(probe)
    probe.at([saturating * share for share in (_QUICK if quick else _SHARES)] + [_FIRST])
    while (edge := _edge(probe)) is not None and probe.fresh([edge]):
        probe.at([edge])
    for _ in range(0 if quick else _REFINEMENTS):
        probe.at(around_knee(probe.points(), path))
    points = probe.points()
    return LoadCurve(scenario.name, points, knee_of(points, path), _best(points), len(points))


def load_report(
    scenario: Scenario,
    constraints: Sequence[Constraint],
    metric: str,
    work: Workplace,
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """The curve and, where there is something to hold, the highest load that does; as JSON has it.

    Raises:
        UserError: as ``load_curve`` and ``highest_rate`` do.
    """
    highest = None
    if limits_of(constraints, scenario):
        highest = highest_rate(
            scenario, constraints, work, seeds=1 if quick else 3, interval=not quick
        )
    also = [highest.factor] if highest and highest.factor is not None else []
    curve = load_curve(scenario, work, metric=metric, also=also, quick=quick)
    return {
        "name": scenario.name,
        "description": scenario.description,
        "curve": curve.as_dict(),
        "highest": highest and highest.as_dict(),
    }


def _best(points: Sequence[LoadPoint]) -> float:
    return max(point.figures["throughput.requests_per_s"] or 0.0 for point in points)


def _path(metric: str) -> str:
    path = metric if metric.startswith("latency.") else f"latency.{metric}"
    name, _, statistic = path.removeprefix("latency.").partition(".")
    known = ("ttft_ms", "ttfat_ms", "tpot_ms", "itl_ms", "e2e_ms")
    if name not in known or statistic not in ("mean", "p50", "p90", "p95", "p99", "max"):
        raise UserError(
            "must be a latency and a statistic of it",
            where=f"metric {metric}",
            hint=f"such as e2e_ms.mean or ttft_ms.p99; latencies are {', '.join(known)}",
        )
    return path


class _Probe:
    """Loads that were simulated, by their factor (of closed loops: the users they come to)."""

    def __init__(self, scenario: Scenario, work: Workplace, paths: Sequence[str]) -> None:
        self.scenario = scenario
        self._work = work
        self._paths = tuple(dict.fromkeys(paths))
        self._found: dict[float, LoadPoint] = {}

    def at(self, factors: Sequence[float]) -> list[LoadPoint]:
        """Simulates what was not yet; the points, in the order of the factors."""
        loads = loads_of(self.scenario, factors)
        new = [load for load in dict.fromkeys(loads) if load not in self._found]
        tasks = [task_at(self.scenario, load) for load in new]
        for load, outcome in zip(new, self._work.run(tasks) if tasks else [], strict=True):
            self._found[load] = self._point(load, outcome)
        return [self._found[load] for load in loads]

    def fresh(self, factors: Sequence[float]) -> bool:
        """Whether any of these loads was not simulated yet."""
        return any(load not in self._found for load in loads_of(self.scenario, factors))

    def points(self) -> tuple[LoadPoint, ...]:
        """All, by rising load."""
        return tuple(self._found[load] for load in sorted(self._found))

    def _point(self, factor: float, outcome: Outcome) -> LoadPoint:
        if outcome.problem:
            raise UserError(outcome.problem)
        summary = outcome.summary
        return LoadPoint(
            factor=factor,
            rate_per_s=number_at(summary, "throughput.sent_requests_per_s") or 0.0,
            users=value_at(summary, "simulated.traffic.concurrency") or None,
            keeps_up=not overloaded(summary),
            figures={path: number_at(summary, path) for path in self._paths},
        )


def _saturating(probe: _Probe) -> float:
    """The factor at which the throughput stops to follow the load, roughly: doubled until more load
    brings little more, halved until less does."""
    factor = _FIRST
    here, there = probe.at([factor, 2 * factor])
    for _ in range(_MOST_DOUBLINGS):
        gain = _gain(here, there)
        if gain < _GAINS * (0.5 if there.users else 1.0):
            break
        factor *= 2
        here, there = there, probe.at([2 * factor])[0]
    while factor > _LEAST and _gain(*probe.at([factor / 2, factor])) < 0.1:
        factor /= 2
    here, there = probe.at([factor, 2 * factor])
    if there.users:
        return 2 * factor
    most = max(throughput(point) for point in (here, there))
    return factor * most / here.rate_per_s if here.rate_per_s > 0 else 2 * factor


def _edge(probe: _Probe) -> float | None:
    """A load half way between the highest that keeps up and the lowest above it that does not, if
    they lie far apart."""
    points = probe.points()
    keeping = [point.factor for point in points if point.keeps_up]
    if not keeping:
        return None
    above = [point.factor for point in points if point.factor > keeping[-1]]
    return math.sqrt(keeping[-1] * above[0]) if above and above[0] > _EDGE * keeping[-1] else None


def _gain(here: LoadPoint, there: LoadPoint) -> float:
    """By what share doubling the load raises the throughput."""
    base = throughput(here)
    return throughput(there) / base - 1.0 if base > 0 else 0.0
