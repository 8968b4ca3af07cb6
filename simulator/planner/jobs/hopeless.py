"""Ends a run as soon as a limit provably cannot be met at its end any more.

A percentile with linear interpolation over n values is at least the value at index
floor((n - 1) p / 100) in their order, so it lies above a limit when n - floor((n - 1) p / 100)
values do. The more values, the more it takes, so the number of all requests that count is enough to
know; and a request that still waits has already waited its time. What is said about the end is thus
never wrong; where too little is known for it, the run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from simulator.cluster.watch import Look, Watch, Watched
from simulator.planner.constraints import Constraint
from simulator.results.answers import times_of
from simulator.results.record import COMPLETED, FAILED, REJECTED, TIMED_OUT, RunRecord
from simulator.results.slo import has_limits, slo_of_classes
from simulator.scenario import Scenario
from simulator.workload.requests import Floats

Flags = npt.NDArray[np.bool_]

_LATENCIES = ("queueing_ms", "ttft_ms", "ttfat_ms", "tpot_ms", "e2e_ms")
_PERCENTS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
_ROUNDING = 1e-9
"""Share by which a mean must exceed its limit, so that the order of summing does not matter."""


def watch_for(limits: Sequence[Constraint], scenario: Scenario) -> Watch | None:
    """What ends a run of a scenario when one of the limits is beyond reach; None without limits.

    Judged early are highest values of percentiles, maximum and mean of queueing time, TTFT, TPOT
    and E2E, and least values of the share of requests that meet their SLO; all of them also of one
    traffic class. Where requests wait for others (closed loops, conversations), their number must
    be sure, so that nobody gives up, is refused or loses its replica.
    """
    if not limits:
        return None

    def watch(run: Watched) -> Look | None:
        if not (run.requests.open_loop or run.sure):
            return None
        found = [_test(limit, scenario, run) for limit in limits]
        tests = [test for test in found if test is not None]
        if not tests:
            return None
        crowd = _Crowd(run, scenario.measurement.warmup_fraction)

        def look(now_s: float) -> str:
            counted = crowd.counted()
            if counted is None:
                return ""
            known = _Known(run, now_s)
            return next(filter(None, (test(known, counted, crowd) for test in tests)), "")

        return look

    return watch


class _Crowd:
    """Which requests count, by the rule of ``results.window``, before all of them were sent."""

    def __init__(self, run: Watched, warmup_fraction: float) -> None:
        requests = run.requests
        answers = requests.answers
        self.leads = np.ones(len(requests), dtype=np.bool_) if answers is None else answers.leads
        self._sent_s = np.frombuffer(run.recorder.sent_s)
        self._total = int(self.leads.sum())
        self._cut = min(int(warmup_fraction * self._total), self._total - 1)
        self._start_s: float | None = None
        self._early = np.zeros(len(requests), dtype=np.bool_)
        if requests.open_loop:
            self._begin(requests.arrival_s)

    def _begin(self, sent_s: Floats) -> None:
        self._start_s = float(np.sort(sent_s[self.leads])[self._cut])
        self._early = self.leads & (sent_s < self._start_s)

    def counted(self) -> Flags | None:
        """Which of the requests that were sent count; None while that is not known."""
        if self._start_s is None:
            sent = np.where(self.leads, self._sent_s, np.nan)
            if int(np.isfinite(sent).sum()) <= self._cut:
                return None
            # Whatever is sent later counts as well.
            self._begin(np.where(np.isfinite(self._sent_s), self._sent_s, np.inf))
        return self.leads & (self._sent_s >= cast(float, self._start_s))  # NaN compares false

    def size(self, members: Flags | None) -> int:
        """How many requests will count in the end, of all or of some."""
        flags = self.leads & ~self._early
        return int((flags if members is None else flags & members).sum())


class _Known:
    """What each request's latencies are at least, in ms; NaN where nothing is known.

    Of requests that completed these are the figures themselves, by the very same arithmetic; of
    others, what they have waited so far.
    """

    def __init__(self, run: Watched, now_s: float) -> None:
        self._run, self._now_s = run, now_s
        recorder = run.recorder
        columns = {
            name: np.frombuffer(getattr(recorder, name))
            for name in ("sent_s", "queued_s", "start_s", "first_token_s", "finish_s")
        }
        outcome = np.frombuffer(recorder.outcome, dtype=np.int64)
        ended = np.isfinite(columns["finish_s"]) & (outcome != TIMED_OUT)
        if run.timeout_s is not None:
            # The client of a later one gives up before it knows.
            ended &= columns["finish_s"] <= columns["sent_s"] + run.timeout_s
        answer_s = None if recorder.answer_s is None else np.frombuffer(recorder.answer_s)
        record = SimpleNamespace(
            requests=run.requests, outcome=np.where(ended, COMPLETED, outcome), answer_s=answer_s,
            **columns,
        )  # fmt: skip
        self._outcome, self._ended = outcome, ended
        self._columns = columns
        self._times = times_of(cast(RunRecord, record))

    @property
    def failed(self) -> Flags:
        """Which requests have ended without their last token. Shape (n,)."""
        failed: Flags = np.isin(self._outcome, (REJECTED, TIMED_OUT, FAILED)) & ~self._ended
        return failed

    def values(self, name: str) -> Floats:
        """The figures of completed requests. Shape (n,)."""
        return cast(Floats, getattr(self._times, name))

    def least(self, name: str) -> Floats:
        """The same, and lower bounds for those that go on as they are. Shape (n,)."""
        so_far = self._passed(name)
        if self._run.requests.answers is None and not self._run.moves:
            return so_far
        values = self.values(name)
        return np.where(np.isnan(values), so_far, values)

    def _passed(self, name: str) -> Floats:
        """What has passed of each request's times until their ends, or until now: where rows are
        requests, the very figures of those that have ended."""
        times, columns = self._times, self._columns
        sent_s = columns["sent_s"]
        if name == "queueing_ms":
            return self._so_far(columns["queued_s"], times.start_s)
        if name == "ttft_ms":
            return self._so_far(sent_s, times.first_token_s)
        if name == "ttfat_ms":
            return self._so_far(sent_s, times.answer_s)
        if name == "e2e_ms":
            return self._so_far(sent_s, times.finish_s)
        if self._run.requests.answers is None and not self._run.moves:
            more = self._run.requests.output_tokens - 1
            total = self._so_far(columns["first_token_s"], columns["finish_s"])
            return np.where(more > 0, total / np.maximum(more, 1), np.nan)
        return np.full_like(sent_s, np.nan)  # the first token may be lost, or be not the first

    def _so_far(self, start_s: Floats, end_s: Floats) -> Floats:
        return 1e3 * (np.where(np.isnan(end_s), self._now_s, end_s) - start_s)


# --- limits --------------------------------------------------------------------------------------


class _Test(Protocol):
    """Whether a limit is beyond reach."""

    def __call__(self, known: _Known, counted: Flags, crowd: _Crowd) -> str:
        """Why it is, in a sentence; empty: it may still be met."""
        ...


@dataclass(frozen=True)
class _Highest:
    """A highest value of a latency's percentile, maximum or mean."""

    limit: Constraint
    name: str
    statistic: str
    members: Flags | None
    sure: bool

    def __call__(self, known: _Known, counted: Flags, crowd: _Crowd) -> str:
        values = known.least(self.name) if self.sure else known.values(self.name)
        values = values[counted if self.members is None else counted & self.members]
        size = crowd.size(self.members)
        if self.statistic == "mean":
            least = float(np.maximum(np.nan_to_num(values), 0.0).sum()) / size if size else 0.0
            if least <= self.limit.limit * (1.0 + _ROUNDING):
                return ""
            return f"{self.limit}: the mean is {least:,.4g} ms at least"
        above = int(np.count_nonzero(values > self.limit.limit))
        # As numpy computes it; one value fewer than this may lie above.
        index = math.floor((size - 1) * (_PERCENTS[self.statistic] / 100.0))
        if above < size - index:
            return ""
        return (
            f"{self.limit}: {above:,} of {size:,} requests are above, {size - index - 1:,} may be"
        )


@dataclass(frozen=True)
class _LeastShare:
    """A least share of requests that meet every limit of their class."""

    limit: Constraint
    limits_ms: tuple[tuple[str, Floats], ...]
    members: Flags | None

    def __call__(self, known: _Known, counted: Flags, crowd: _Crowd) -> str:
        missed = known.failed.copy()
        for name, limits_ms in self.limits_ms:
            missed |= known.least(name) > limits_ms  # NaN compares false
        misses = int((missed & (counted if self.members is None else counted & self.members)).sum())
        size = crowd.size(self.members)
        if not size or self.limit.holds((size - misses) / size):
            return ""
        return f"{self.limit}: {misses:,} of {size:,} requests have missed"


def _test(limit: Constraint, scenario: Scenario, run: Watched) -> _Test | None:
    """What tells early that a limit is beyond reach; None where only the end tells."""
    path = limit.path.split(".")
    classes = run.requests.classes
    members = None
    if limit.traffic_class is not None:
        if limit.traffic_class not in classes or len(classes) < 2:
            return None
        members = run.requests.class_id == classes.index(limit.traffic_class)
        path = path[2:]
    elif path[0] in ("latency", "slo"):
        path = path[1:]
    if path == ["goodput_share"] and limit.min is not None:
        return _share_test(limit, scenario, run, members)
    if len(path) == 2 and path[0] in _LATENCIES and limit.max is not None:
        name, statistic = path
        if statistic in _PERCENTS or (statistic == "mean" and limit.limit > 0.0):
            return _Highest(limit, name, statistic, members, run.sure)
    return None


def _share_test(
    limit: Constraint, scenario: Scenario, run: Watched, members: Flags | None
) -> _LeastShare | None:
    """Of all classes, or of one: requests are judged by the limits of their own class."""
    of_class = slo_of_classes(scenario)
    slos = [of_class.get(name, scenario.slo) for name in run.requests.classes]
    if not any(has_limits(slo) for slo in slos):
        return None
    limits_ms = []
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        values = [getattr(slo, name) for slo in slos]
        by_class = np.array([math.inf if value is None else value for value in values])
        limits_ms.append((name, by_class[run.requests.class_id]))
    return _LeastShare(limit, tuple(limits_ms), members)
