"""How many replicas there should be: decisions without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import numpy.typing as npt

from simulator.scenario.lifecycle import (
    Autoscaling,
    HoltForecast,
    PerfectForecast,
    PredictiveScaling,
    ScheduleScaling,
    SeasonalForecast,
    UtilizationScaling,
)

_ROUNDING = 1e-9
"""Relative slack, so that a quotient of 3 that is off by rounding does not ask for 4 replicas."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a pool did in the interval that ends now.

    Args:
        now: the time, seconds.
        replicas: how many were wanted until now, those that are starting included.
        requests: queued or running, at the gateway too, averaged over the interval.
        present: queued or running now, at the gateway too.
        waiting: those of them that no step has worked on.
        busy: replicas with something to do, averaged over the interval.
        rate: requests that came, per second.
    """

    now: float
    replicas: int
    requests: float
    present: int
    waiting: int
    busy: float
    rate: float


class Scaler(Protocol):
    """Says how many replicas should be there."""

    def wanted(self, observed: Observed) -> int:
        """How many, from now on."""
        ...

    def next_after(self, now: float) -> float:
        """When to ask next."""
        ...


def target_tracking(replicas: int, metric: float, target: float, tolerance: float) -> int:
    """Replicas wanted, as the Kubernetes Horizontal Pod Autoscaler computes them:
    ceil(replicas × (metric / replicas) / target), and no change while the ratio of the metric's
    mean to its target is within ``tolerance`` of 1.

    Args:
        replicas: how many are wanted now; those that are starting count with a metric of zero.
        metric: summed over them.
        target: of one.
        tolerance: of the ratio.
    """
    if replicas and abs(metric / (replicas * target) - 1.0) <= tolerance:
        return replicas
    return _enough(metric / target)


def _enough(replicas: float) -> int:
    return max(0, ceil(replicas * (1.0 - _ROUNDING) - _ROUNDING))


class Stabilizer:
    """Lets a number rise only as far as all recent wishes agree, and fall likewise (the
    autoscaler's stabilization windows)."""

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s, self._down_s = up_s, down_s
        self._wishes: deque[tuple[float, int]] = deque()

    def settle(self, now: float, replicas: int, wish: int) -> int:
        """What becomes of a wish at ``now``."""
        wishes = self._wishes
        wishes.append((now, wish))
        oldest = now - max(self._up_s, self._down_s)
        while wishes[0][0] < oldest - _ROUNDING:
            wishes.popleft()
        if wish > replicas:
            return max(replicas, min(self._since(now - self._up_s)))
        if wish < replicas:
            return min(replicas, max(self._since(now - self._down_s)))
        return replicas

    def _since(self, start: float) -> list[int]:
        return [wish for at, wish in self._wishes if at >= start - _ROUNDING]


class Tracking:
    """Keeps a metric at its target, within min and max."""

    def __init__(self, settings: Autoscaling, wish: Callable[[Observed], int]) -> None:
        assert not isinstance(settings, ScheduleScaling)
        self._settings = settings
        self._wish = wish
        self._stabilizer = Stabilizer(settings.up_window_s, settings.down_window_s)
        self._changed_s = -np.inf
        self._used_s = 0.0

    def next_after(self, now: float) -> float:
        """See ``Scaler.next_after``."""
        return now + self._settings.interval_s

    def wanted(self, observed: Observed) -> int:
        """See ``Scaler.wanted``."""
        settings, now = self._settings, observed.now
        if observed.requests > 0.0 or observed.present:
            self._used_s = now
        idle = now - self._used_s >= settings.idle_s - _ROUNDING
        fewest = max(settings.min, 0 if idle or not observed.replicas else 1)
        wish = min(max(self._wish(observed), fewest), settings.max)
        count = self._stabilizer.settle(now, observed.replicas, wish)
        if count == observed.replicas or now - self._changed_s < settings.cooldown_s - _ROUNDING:
            return observed.replicas
        self._changed_s = now
        return count


class Timetable:
    """Follows a schedule."""

    def __init__(self, settings: ScheduleScaling) -> None:
        self._settings = settings

    def wanted(self, observed: Observed) -> int:
        """See ``Scaler.wanted``."""
        steps = self._settings.steps
        at = observed.now % self._settings.period_s
        known = [step.replicas for step in steps if step.at_s <= at * (1.0 + _ROUNDING)]
        return known[-1] if known else steps[-1].replicas

    def next_after(self, now: float) -> float:
        """When the number may change next."""
        period = self._settings.period_s
        begun = now // period * period
        for base in (begun, begun + period):
            for step in self._settings.steps:
                if base + step.at_s > now * (1.0 + _ROUNDING) + _ROUNDING:
                    return base + step.at_s
        raise AssertionError("a timetable repeats")


# --- forecasts -----------------------------------------------------------------------------------


class Holt:
    """Double exponential smoothing (Holt, 1957): a level and its trend."""

    def __init__(self, settings: HoltForecast, interval_s: float) -> None:
        self._settings = settings
        self._interval_s = interval_s
        self._level: float | None = None
        self._trend = 0.0

    def highest(self, observed: Observed, lead_s: float) -> float:
        """The highest rate expected from now until ``lead_s`` later."""
        before, settings = self._level, self._settings
        if before is None:
            self._level = observed.rate
        else:
            expected = before + self._trend
            self._level = settings.level * observed.rate + (1.0 - settings.level) * expected
            change = self._level - before
            self._trend = settings.trend * change + (1.0 - settings.trend) * self._trend
        ahead = lead_s / self._interval_s
        return max(self._level, self._level + ahead * self._trend)


class Seasonal:
    """The same time one period earlier (the seasonal naive forecast)."""

    def __init__(self, settings: SeasonalForecast, interval_s: float) -> None:
        self._period = max(1, round(settings.period_s / interval_s))
        self._interval_s = interval_s
        self._rates: list[float] = []

    def highest(self, observed: Observed, lead_s: float) -> float:
        """See ``Holt.highest``."""
        self._rates.append(observed.rate)
        start = len(self._rates) - self._period
        if start < 0:
            return observed.rate
        ahead = max(1, ceil(lead_s / self._interval_s))
        return max(self._rates[start : start + min(ahead, self._period)])


class Perfect:
    """What the traffic will do. ``arrivals``: ascending."""

    def __init__(self, arrivals: npt.NDArray[np.float64], interval_s: float) -> None:
        self._arrivals = arrivals
        self._interval_s = interval_s

    def highest(self, observed: Observed, lead_s: float) -> float:
        """See ``Holt.highest``."""
        ahead = max(1, ceil(lead_s / self._interval_s))
        edges = observed.now + self._interval_s * np.arange(ahead + 1)
        counts = np.diff(np.searchsorted(self._arrivals, edges))
        return float(counts.max()) / self._interval_s


def make_scaler(settings: Autoscaling, lead_s: float, arrivals: npt.NDArray[np.float64]) -> Scaler:
    """Who decides.

    Args:
        settings: as the scenario says.
        lead_s: a cold start.
        arrivals: when requests will come, ascending; for the perfect forecast.
    """
    if isinstance(settings, ScheduleScaling):
        return Timetable(settings)
    if isinstance(settings, PredictiveScaling):
        return Tracking(settings, _predicted(settings, lead_s, arrivals))
    target, tolerance = settings.target, settings.tolerance

    def metric(observed: Observed) -> float:
        if isinstance(settings, UtilizationScaling):
            return observed.busy
        return observed.requests if settings.kind == "concurrency" else observed.waiting

    return Tracking(settings, lambda o: target_tracking(o.replicas, metric(o), target, tolerance))


def _predicted(
    settings: PredictiveScaling, lead_s: float, arrivals: npt.NDArray[np.float64]
) -> Callable[[Observed], int]:
    interval_s, how = settings.interval_s, settings.forecast
    ahead_s = settings.lead_s or lead_s + interval_s
    forecast: Holt | Seasonal | Perfect
    if isinstance(how, HoltForecast):
        forecast = Holt(how, interval_s)
    elif isinstance(how, SeasonalForecast):
        forecast = Seasonal(how, interval_s)
    else:
        assert isinstance(how, PerfectForecast)
        forecast = Perfect(arrivals, interval_s)

    def wish(observed: Observed) -> int:
        rate = forecast.highest(observed, ahead_s)
        return target_tracking(observed.replicas, rate, settings.requests_per_s, settings.tolerance)

    return wish
