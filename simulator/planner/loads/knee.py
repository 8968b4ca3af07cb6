"""The knee of a load curve.

It is Kleinrock's (“Power and deterministic rules of thumb for probabilistic problems in computer
communications”, ICC 1979): the load at which throughput / latency is highest. There one percent
more load costs one percent more latency; below it load is nearly free, above it latency pays. For
M/M/1 that is a load of 1/2, for M/D/1 of 2 − √2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One load.

    Args:
        factor: by which the scenario's traffic is scaled.
        rate_per_s: requests sent a second; of closed loops, what their users come to.
        users: of closed loops; None elsewhere.
        keeps_up: whether the queue does not grow from the middle of the run to its end.
        figures: by their paths in a summary, see ``FIGURES``; None where undefined.
    """

    factor: float
    rate_per_s: float
    users: int | None
    keeps_up: bool
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Knee:
    """Where throughput / latency is highest.

    Args:
        factor, rate_per_s, users: as of a point.
        metric: path of the latency.
        latency: its value there, between the simulated points.
        over_least: the same over that of the lightest load.
    """

    factor: float
    rate_per_s: float
    users: int | None
    metric: str
    latency: float
    over_least: float


def throughput(point: LoadPoint) -> float:
    """Requests completed a second."""
    return point.figures["throughput.requests_per_s"] or 0.0


def knee_of(points: Sequence[LoadPoint], path: str) -> Knee | None:
    """The load with the highest throughput / latency, by a parabola through the best point and its
    neighbours (logarithms of both); None if the latency is nowhere defined.

    Open loops count what is sent, as the definition does for a queue that is stable; points that
    do not keep up are beyond it. Closed loops count what is completed.
    """
    known = [point for point in points if _power(point, path) is not None]
    if not known:
        return None
    powers = [_power(point, path) or 0.0 for point in known]
    best = max(range(len(known)), key=powers.__getitem__)
    load = known[best].factor
    if 0 < best < len(known) - 1:
        around = known[best - 1 : best + 2]
        load = math.exp(
            _vertex([math.log(p.factor) for p in around],
                    [math.log(power) for power in powers[best - 1 : best + 2]])
        )  # fmt: skip
    rate, latency = _between(known, path, load)
    users = known[best].users
    least = known[0].figures[path] or math.inf
    return Knee(
        factor=load,
        rate_per_s=rate,
        users=None if users is None else round(users * load / known[best].factor),
        metric=path,
        latency=latency,
        over_least=latency / least,
    )


def _power(point: LoadPoint, path: str) -> float | None:
    latency = point.figures[path]
    if not latency or latency <= 0 or not (point.keeps_up or point.users):
        return None
    rate = throughput(point) if point.users else point.rate_per_s
    return rate / latency if rate > 0 else None


def _vertex(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through three points with the middle one highest has its top."""
    (x0, x1, x2), (y0, y1, y2) = x, y
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:
        return x1
    top = x1 - ((x1 - x0) * left - (x1 - x2) * right) / (2 * (left - right))
    return min(max(top, x0), x2)


def _between(points: Sequence[LoadPoint], path: str, factor: float) -> tuple[float, float]:
    """Rate and latency at a load, on straight lines between points."""
    at = [point.factor for point in points]
    rate = float(np.interp(factor, at, [point.rate_per_s for point in points]))
    return rate, float(np.interp(factor, at, [point.figures[path] or 0.0 for point in points]))


def around_knee(points: Sequence[LoadPoint], path: str) -> list[float]:
    """Loads half way from the best point to its neighbours."""
    known = [point for point in points if _power(point, path) is not None]
    if not known:
        return []
    best = max(range(len(known)), key=lambda i: _power(known[i], path) or 0.0)
    around = known[max(0, best - 1) : best + 2]
    return [math.sqrt(a.factor * b.factor) for a, b in pairwise(around)]
