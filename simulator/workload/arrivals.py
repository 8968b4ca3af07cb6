"""When requests are sent.

Every random process here is a unit-rate renewal process seen through a clock: gaps of mean one are
summed to operational time ``y``, and ``y`` is mapped to seconds by the inverse of the cumulative
rate. For exponential gaps that is the inversion method for a non-homogeneous Poisson process
(Çınlar 1975; Devroye 1986, ch. VI.1.3), which is exact. It also means that two rates see the same
gaps, only stretched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from simulator.errors import ScenarioError
from simulator.scenario.rates import RatesArrivals
from simulator.scenario.workload import (
    Arrivals,
    BurstArrivals,
    ClosedLoopArrivals,
    ConstantArrivals,
    DiurnalArrivals,
    GammaArrivals,
    RampArrivals,
)
from simulator.workload.requests import Floats

MAX_REQUESTS = 20_000_000
"""Requests of one run; more would not fit into the memory of an ordinary machine."""

LONGEST_S = 1e9
"""Latest arrival, and longest pause, that the clock's floating-point seconds resolve well."""


class RateClock(Protocol):
    """The cumulative rate of arrivals and its inverse."""

    def expected(self, time_s: float) -> float:
        """Arrivals expected in [0, time_s)."""
        ...

    def times(self, expected: Floats) -> Floats:
        """The times (seconds) by which so many arrivals are expected; keeps the order."""
        ...


class SteadyClock:
    """The same rate at all times."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s

    def expected(self, time_s: float) -> float:
        """Rate times time."""
        return self.rate_per_s * time_s

    def times(self, expected: Floats) -> Floats:
        """Count over rate."""
        return expected / self.rate_per_s


class RampClock:
    """Linear from ``start`` to ``end`` within ``over_s``, then ``end``: the integral is
    ``start t + (end - start) t² / (2 over_s)`` up to ``over_s``, and a straight line after."""

    def __init__(self, ramp: RampArrivals) -> None:
        self.start = ramp.start_per_s
        self.end = ramp.end_per_s
        self.over_s = ramp.over_s

    def expected(self, time_s: float) -> float:
        """Integral of the rate."""
        t = min(time_s, self.over_s)
        ramped = self.start * t + (self.end - self.start) * t * t / (2 * self.over_s)
        return ramped + self.end * max(time_s - self.over_s, 0.0)

    def times(self, expected: Floats) -> Floats:
        """Root of the quadratic in the form that does not cancel; a line behind the ramp."""
        at_end = (self.start + self.end) * self.over_s / 2
        y = np.minimum(expected, at_end)
        slope = (self.end - self.start) / self.over_s
        root = np.sqrt(np.maximum(self.start**2 + 2 * slope * y, 0.0))
        # The denominator is zero only at y = 0 of a ramp that starts at rate zero.
        ramped = 2 * y / np.maximum(self.start + root, np.finfo(np.float64).tiny)
        return np.where(expected < at_end, ramped, self.over_s + (expected - at_end) / self.end)


class DiurnalClock:
    """``rate (1 + a cos(2π (t - peak) / period))`` with ``a = peak_to_mean - 1``.

    In periods (x = t / period) the share of a period's arrivals that came by x is
    ``x + a / 2π (sin 2π(x - x0) + sin 2π x0)``. It has no closed inverse: a table brackets the
    root and Newton's method, kept inside the bracket, finishes it.
    """

    _CELLS = 2048

    def __init__(self, diurnal: DiurnalArrivals) -> None:
        self.per_period = diurnal.rate_per_s * diurnal.period_s
        self.period_s = diurnal.period_s
        self.swing = diurnal.peak_to_mean - 1
        self.peak = math.fmod(diurnal.peak_at_s / diurnal.period_s, 1.0)

    def _share(self, x: Floats) -> Floats:
        turn = 2 * math.pi
        offset = math.sin(turn * self.peak)
        return x + self.swing / turn * (np.sin(turn * (x - self.peak)) + offset)

    def expected(self, time_s: float) -> float:
        """Integral of the rate."""
        return self.per_period * float(self._share(np.array(time_s / self.period_s)))

    def times(self, expected: Floats) -> Floats:
        """Numerical inverse, to about 1e-15 of a period."""
        periods, share = np.divmod(expected / self.per_period, 1.0)
        x = self._inverse(share)
        # Round-off may swap two arrivals that are 1e-16 periods apart.
        return np.maximum.accumulate((periods + x) * self.period_s)

    def _inverse(self, share: Floats) -> Floats:
        grid = np.linspace(0.0, 1.0, self._CELLS + 1)
        table = self._share(grid)
        cell = np.clip(np.searchsorted(table, share, side="right") - 1, 0, self._CELLS - 1)
        low, high = grid[cell], grid[cell + 1]
        result = (low + high) / 2
        open_ = np.arange(len(share))
        for _ in range(60):  # halving alone needs 42 rounds from a cell to the last bit
            if not len(open_):
                break
            x, target = result[open_], share[open_]
            error = self._share(x) - target
            low, high = np.where(error <= 0, x, low), np.where(error > 0, x, high)
            rate = 1 + self.swing * np.cos(2 * math.pi * (x - self.peak))
            newton = x - error / np.maximum(rate, 1e-12)
            step = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            result[open_] = step
            moving = np.abs(step - x) > 1e-14
            open_, low, high = open_[moving], low[moving], high[moving]
        return result


def _clock(arrivals: Arrivals) -> RateClock:
    if isinstance(arrivals, RampArrivals):
        return RampClock(arrivals)
    if isinstance(arrivals, DiurnalArrivals):
        return DiurnalClock(arrivals)
    if isinstance(arrivals, BurstArrivals | ClosedLoopArrivals | RatesArrivals):
        raise ValueError(f"{arrivals.kind} arrivals have no rate of their own")
    return SteadyClock(arrivals.rate_per_s)


def _gaps(arrivals: Arrivals, rng: np.random.Generator) -> Callable[[int], Floats]:
    """A source of gaps of mean one; n of them and then m more are the first n + m."""
    if isinstance(arrivals, GammaArrivals):
        shape = 1 / arrivals.cv**2
        return lambda n: rng.standard_gamma(shape, n) / shape
    return rng.standard_exponential


def _events_until(gaps: Callable[[int], Floats], until: float, where: str) -> Floats:
    """Sums of gaps below ``until``, which is also about how many there will be."""
    chunk = int(until + 6 * math.sqrt(until)) + 16
    parts: list[Floats] = []
    drawn, last = 0, 0.0
    while last < until:
        events = gaps(chunk)
        events[0] += last
        np.cumsum(events, out=events)
        parts.append(events)
        drawn, last = drawn + chunk, float(events[-1])
        check_size(drawn - chunk, where)
    events = np.concatenate(parts)
    return events[: np.searchsorted(events, until, side="left")]


def check_size(requests: float, where: str) -> None:
    """Raises a ScenarioError when a run would hold more than ``MAX_REQUESTS`` requests."""
    if requests > MAX_REQUESTS:
        raise ScenarioError(
            f"about {requests:,.0f} requests are more than one run holds ({MAX_REQUESTS:,})",
            where=where,
            hint="shorten the run or lower the rate",
        )


def arrival_times(
    arrivals: Arrivals,
    rng: np.random.Generator,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    where: str = "workload",
    base: Path | None = None,
) -> Floats:
    """Times at which an open-loop process sends, ascending, in seconds from the start.

    Exactly one of ``requests`` (how many) and ``duration_s`` (all in [0, duration_s)) is given, or
    neither for a table of rates: its rest, or one round. Its file is relative to ``base``.
    A random process starts like one that has just seen an arrival: its first request comes after
    one gap. Constant arrivals send request i at i / rate, the first at time zero, so a duration
    holds rate x duration of them; a burst sends all at time zero.

    Shapes: result (n,).

    Raises:
        ScenarioError: more requests than a run can hold, times beyond the range of a float, or a
            table of rates that ends too early.
        UnknownNameError, TraceError: a table of rates that cannot be read.
    """
    check_size(requests or 0, f"{where}.requests")
    if isinstance(arrivals, BurstArrivals):
        if requests is None:
            raise ValueError("a burst is sized by requests")
        return np.zeros(requests)
    if isinstance(arrivals, RatesArrivals):
        return _by_table(arrivals, rng, requests, duration_s, where, base)
    clock = _clock(arrivals)
    if duration_s is not None:
        check_size(clock.expected(duration_s), f"{where}.duration_s")
    if isinstance(arrivals, ConstantArrivals):
        count = requests or math.ceil(clock.expected(duration_s or 0.0)) + 1
        times = np.arange(count) / arrivals.rate_per_s
    else:
        gaps = _gaps(arrivals, rng)
        if duration_s is None:
            events = np.cumsum(gaps(requests or 0))
        else:
            events = _events_until(gaps, clock.expected(duration_s), f"{where}.duration_s")
        times = clock.times(events)
    if duration_s is not None:
        times = times[times < duration_s]
    if not np.isfinite(times).all():
        raise ScenarioError(
            "the rate is so low that arrival times leave the range of numbers",
            where=f"{where}.arrivals",
        )
    return times


def _by_table(
    arrivals: RatesArrivals,
    rng: np.random.Generator,
    requests: int | None,
    duration_s: float | None,
    where: str,
    base: Path | None,
) -> Floats:
    """Arrivals of a table of rates: so many, for so long, or to its end."""
    from simulator.workload.rates import TableClock, bursty_events, load_rates

    table = load_rates(arrivals, base, where)
    clock = TableClock(table, arrivals.start_s, arrivals.repeat)
    left_s = table.end_s - arrivals.start_s % table.end_s
    if duration_s is not None and not arrivals.repeat and duration_s > left_s * (1 + 1e-12):
        raise ScenarioError(
            f"the table of rates ends {left_s:g} s after the start",
            where=f"{where}.duration_s",
            hint="shorten duration_s, or set arrivals.repeat",
        )
    if requests is None:
        whole_s = table.end_s if arrivals.repeat else left_s
        size, ends = ("duration_s", duration_s) if duration_s else ("arrivals", whole_s)
        until = clock.expected(ends)
    else:
        size, ends, until = "requests", math.inf, clock.total
        if clock.times(np.array([float(requests)]))[0] > LONGEST_S and arrivals.repeat:
            raise ScenarioError(
                f"{requests:,} requests would take longer than {LONGEST_S:.0e} s",
                where=f"{where}.requests",
                hint="raise arrivals.scale",
            )
    check_size(until if requests is None else requests, f"{where}.{size}")
    if not table.poisson:
        events = bursty_events(table, clock, rng, until, requests)
    elif requests is None:
        events = _events_until(rng.standard_exponential, until, f"{where}.{size}")
    else:
        events = np.cumsum(rng.standard_exponential(requests))
    times = clock.times(events)
    times = times[times < ends]
    if requests is not None and len(times) < requests:
        raise ScenarioError(
            f"the table of rates ends after {len(times):,} requests",
            where=f"{where}.requests",
            hint=f"about {clock.total:,.0f} are to be expected of it; ask for fewer, leave "
            "requests out, or set arrivals.repeat",
        )
    return times
