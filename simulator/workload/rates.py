"""Arrivals whose rate is a table over time.

Within an interval the gaps form a renewal process of mean 1 in operational time (the integral of
the rate): exponential, or gamma with the interval's coefficient of variation. A gap that reaches
beyond its interval goes on in the next one at that one's rate. So a Poisson table gives exactly a
Poisson process with that rate, and a bursty one deviates from the integral by less than
(cv² - 1) / 2 requests, as renewal processes that begin with an event do (Cox 1962, §4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.errors import ScenarioError, TraceError
from simulator.scenario.rates import RatesArrivals
from simulator.workload.columns import bad_value, numbers
from simulator.workload.requests import Floats
from simulator.workload.tables import CLOCKS, Table, read_table

LEAST_CV, MOST_CV = 0.001, 100.0


@dataclass(frozen=True, slots=True)
class RateTable:
    """``n`` intervals.

    Args:
        name: what the user called it.
        start_s: (n,) ascending from 0.
        rate_per_s: (n,) mean arrival rate, none negative and not all zero.
        cv: (n,) of the gaps that begin there.
        end_s: when the last one ends.
    """

    name: str
    start_s: Floats
    rate_per_s: Floats
    cv: Floats
    end_s: float

    @property
    def length_s(self) -> Floats:
        """Of each interval. Shape (n,)."""
        return np.diff(self.start_s, append=self.end_s)

    @property
    def expected(self) -> float:
        """Requests of the whole table."""
        return float((self.rate_per_s * self.length_s).sum())

    @property
    def poisson(self) -> bool:
        """Whether no interval is burstier or more regular than Poisson."""
        return bool((self.cv == 1.0).all())


def load_rates(arrivals: RatesArrivals, base: Path | None, where: str) -> RateTable:
    """The table of a scenario, scaled.

    Raises:
        UnknownNameError, TraceError: see ``read_rates``.
        ScenarioError: the run begins behind the table's end, or the table has no requests.
    """
    otherwise = 1.0 if arrivals.cv is None else arrivals.cv
    if arrivals.file is not None:
        table = read_rates(arrivals.file, arrivals.end_s, otherwise, base)
    else:
        table = _inline(arrivals, otherwise, where)
    if arrivals.start_s >= table.end_s and not arrivals.repeat:
        raise ScenarioError(
            f"the table of rates ends after {table.end_s:g} s",
            where=f"{where}.arrivals.start_s",
            hint="begin earlier, or set repeat",
        )
    if table.expected <= 0.0:
        raise ScenarioError("all rates of the table are zero", where=f"{where}.arrivals")
    scaled = table.rate_per_s * arrivals.scale
    return RateTable(table.name, table.start_s, scaled, table.cv, table.end_s)


def read_rates(
    name: str, end_s: float | None = None, otherwise: float = 1.0, base: Path | None = None
) -> RateTable:
    """A table of rates from a CSV file.

    Args:
        name: a shipped table, or a file relative to ``base``.
        end_s: when the last interval ends; None: it is as long as the one before it.
        otherwise: coefficient of variation of rows that give none.

    Raises:
        UnknownNameError: there is no such table.
        TraceError: the file or one of its rows is malformed.
    """
    table = read_table(name, base)
    known = {*CLOCKS, "rate_per_s", "requests", "cv"}
    odd = [column for column in table.columns if column not in known]
    given = [column for column in ("rate_per_s", "requests") if column in table.columns]
    if odd or len(given) != 1:
        raise TraceError(
            f"the columns are '{','.join(table.columns)[:120]}'",
            where=f"{name}:1",
            hint="expected start_s or timestamp, then rate_per_s or requests, then perhaps cv",
        )
    end = table.end_s(end_s)
    amounts = table.column(given[0], "a number that is not negative")
    if given[0] == "requests":
        amounts = amounts / np.diff(table.start_s, append=end)
    return RateTable(name, table.start_s, amounts, _variations(table, otherwise), end)


def _variations(table: Table, otherwise: float) -> Floats:
    """Blank fields and zeros, which an interval without requests has, count as not given."""
    texts = table.columns.get("cv")
    if texts is None:
        return np.full(len(table.lines), otherwise)
    filled = [text if text.strip() else "0" for text in texts]
    found = numbers(filled, table.lines, "cv", table.name, "a number, or nothing")
    bad = np.flatnonzero((found != 0.0) & ((found < LEAST_CV) | (found > MOST_CV)))
    if len(bad):
        i = int(bad[0])
        limits = f"a number from {LEAST_CV:g} to {MOST_CV:g}, or nothing"
        raise bad_value(table.name, table.lines[i], "cv", texts[i], limits)
    return np.where(found == 0.0, otherwise, found)


def _inline(arrivals: RatesArrivals, otherwise: float, where: str) -> RateTable:
    intervals = arrivals.intervals
    start_s = np.array([interval.start_s for interval in intervals])
    start_s -= start_s[0]
    end_s = arrivals.end_s
    if end_s is None:
        end_s = float(2 * start_s[-1] - start_s[-2])
    if end_s <= start_s[-1]:
        raise ScenarioError(
            f"the last interval begins {start_s[-1]:g} s after the first, at or after end_s "
            f"({end_s:g})",
            where=f"{where}.arrivals.end_s",
        )
    rates = np.array([interval.rate_per_s for interval in intervals])
    cv = np.array([otherwise if i.cv is None else i.cv for i in intervals])
    return RateTable(f"{len(intervals)} intervals", start_s, rates, cv, end_s)


class TableClock:
    """The cumulative rate of a table from ``from_s`` on, and its inverse."""

    def __init__(self, table: RateTable, from_s: float, repeat: bool) -> None:
        self._edges = np.append(table.start_s, table.end_s)
        self._rates = table.rate_per_s
        self._through = np.concatenate([[0.0], np.cumsum(table.rate_per_s * table.length_s)])
        self._repeat = repeat
        self._from_s = from_s
        self.before = self._until(from_s)

    @property
    def total(self) -> float:
        """Arrivals expected until the table ends; infinite if it repeats."""
        return math.inf if self._repeat else float(self._through[-1]) - self.before

    def _until(self, time_s: float) -> float:
        end_s, total = float(self._edges[-1]), float(self._through[-1])
        rounds = 0.0
        if self._repeat:
            rounds, time_s = divmod(time_s, end_s)
        elif time_s >= end_s:
            return total
        i = int(np.searchsorted(self._edges, time_s, side="right")) - 1
        within = float(self._through[i] + self._rates[i] * (time_s - self._edges[i]))
        return rounds * total + within

    def expected(self, time_s: float) -> float:
        """Integral of the rate over the first ``time_s`` seconds of the run."""
        return self._until(self._from_s + time_s) - self.before

    def times(self, expected: Floats) -> Floats:
        """When so many arrivals are expected; infinite behind the end of the table."""
        total = self._through[-1]
        y = expected + self.before
        rounds = np.zeros(len(y))
        if self._repeat:
            rounds, y = np.divmod(y, total)
        i = np.searchsorted(self._through, y, side="right") - 1
        beyond = i >= len(self._rates)
        i[beyond] = len(self._rates) - 1
        # Where the rate is zero no arrival falls: its interval is empty in operational time.
        rate = np.maximum(self._rates[i], np.finfo(np.float64).tiny)
        times = self._edges[i] + (y - self._through[i]) / rate
        times = np.where(beyond, self._edges[-1] if self._repeat else math.inf, times)
        times = rounds * self._edges[-1] + times - self._from_s
        return np.maximum.accumulate(np.maximum(times, 0.0))

    def spans(self) -> Callable[[], tuple[int, float]]:
        """A source of intervals in the order of time: index, and the operational time (from the
        start of the run) at which it ends; infinite behind the table's end."""
        n, total = len(self._rates), float(self._through[-1])
        offset, end_s = self._from_s, float(self._edges[-1])
        rounds, within = divmod(offset, end_s) if self._repeat else (0.0, offset)
        at = [int(rounds) * n + int(np.searchsorted(self._edges, within, side="right")) - 1]

        def next_span() -> tuple[int, float]:
            turn, index = divmod(at[0], n)
            at[0] += 1
            if turn and not self._repeat:
                return n - 1, math.inf
            return index, turn * total + float(self._through[index + 1]) - self.before

        return next_span


def bursty_events(
    table: RateTable, clock: TableClock, rng: np.random.Generator, until: float, most: int | None
) -> Floats:
    """Operational times of arrivals below ``until``, at most ``most`` of them.

    Every interval has a generator of its own, so that another scale draws the same gaps.
    """
    next_span = clock.spans()
    parts: list[Floats] = []
    found = 0
    event: float | None = None
    end = 0.0
    while end < until and (most is None or found < most):
        index, end = next_span()
        end = min(end, until)
        shape = 1.0 / float(table.cv[index]) ** 2
        own = rng.spawn(1)[0]
        if event is None:  # the run begins like a process that has just seen an arrival
            event = float(own.standard_gamma(shape)) / shape
        while event < end:
            room = end - event
            chunk = int(room + 6.0 * table.cv[index] * math.sqrt(room)) + 16
            chunk = min(chunk, 1_000_000)
            events = event + np.concatenate(
                [[0.0], np.cumsum(own.standard_gamma(shape, chunk) / shape)]
            )
            inside = int(np.searchsorted(events, end, side="left"))
            parts.append(events[: min(inside, chunk)])
            event = float(events[min(inside, chunk)])
            found += len(parts[-1])
    events = np.concatenate(parts) if parts else np.zeros(0)
    return events if most is None else events[:most]
