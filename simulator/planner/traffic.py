"""Traffic as a search sees it: made heavier or lighter, and what it asks of a deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

import numpy as np
import numpy.typing as npt

from simulator.errors import UserError
from simulator.scenario.measurement import Measurement
from simulator.scenario.rates import RatesArrivals
from simulator.scenario.workload import (
    Arrivals,
    BatchWorkload,
    BurstArrivals,
    ClosedLoopArrivals,
    ConstantArrivals,
    DiurnalArrivals,
    GammaArrivals,
    MixWorkload,
    PoissonArrivals,
    QueueWorkload,
    RampArrivals,
    SessionsWorkload,
    SyntheticWorkload,
    TraceWorkload,
    TrafficClass,
    Workload,
)
from simulator.workload.requests import Floats, Ints, Requests

QUANTILES = (50, 90, 95, 99)

Single = SyntheticWorkload | TraceWorkload | SessionsWorkload | BatchWorkload | QueueWorkload


def scaled(workload: Workload, factor: float) -> Workload:
    """The same traffic, ``factor`` times as heavy.

    Rates are multiplied, closed loops get as many times the users (rounded up), bursts and batch
    jobs as many times the requests (rounded up), traces are replayed as many times as fast. Where
    traffic says how many requests there are, as many stay, so that it ends sooner; where it says
    how long it lasts, it lasts as long. Limits on requests at the server at once stay.

    Raises:
        UserError: the factor is no positive number.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UserError(
            f"traffic cannot be made {factor:g} times as heavy", hint="take a number above 0"
        )
    if factor == 1.0:
        return workload
    if isinstance(workload, MixWorkload):
        classes = tuple(_class(each, factor) for each in workload.classes)
        return workload.model_copy(update={"classes": classes})
    return _single(workload, factor)


def _class(traffic: TrafficClass, factor: float) -> TrafficClass:
    return traffic.model_copy(update={"workload": _single(traffic.workload, factor)})


def _single(workload: Single, factor: float) -> Single:
    match workload:
        case TraceWorkload():
            return workload.model_copy(update={"rate_scale": workload.rate_scale * factor})
        case BatchWorkload():
            return workload.model_copy(update={"requests": _count(workload.requests, factor)})
        case SyntheticWorkload() | SessionsWorkload() | QueueWorkload():
            changes: dict[str, object] = {"arrivals": _arrivals(workload.arrivals, factor)}
            if isinstance(workload.arrivals, BurstArrivals) and workload.requests is not None:
                changes["requests"] = _count(workload.requests, factor)
            return workload.model_copy(update=changes)
        case _:
            assert_never(workload)


def _arrivals(arrivals: Arrivals, factor: float) -> Arrivals:
    match arrivals:
        case PoissonArrivals() | GammaArrivals() | ConstantArrivals() | DiurnalArrivals():
            return arrivals.model_copy(update={"rate_per_s": arrivals.rate_per_s * factor})
        case RampArrivals():
            ends = {
                "start_per_s": arrivals.start_per_s * factor,
                "end_per_s": arrivals.end_per_s * factor,
            }
            return arrivals.model_copy(update=ends)
        case RatesArrivals():
            return arrivals.model_copy(update={"scale": arrivals.scale * factor})
        case BurstArrivals():
            return arrivals
        case ClosedLoopArrivals():
            users = _count(arrivals.concurrency, factor)
            return arrivals.model_copy(update={"concurrency": users})
        case _:
            assert_never(arrivals)


def _count(number: int, factor: float) -> int:
    """Rounded up, but not because of round-off."""
    return max(1, math.ceil(number * factor * (1.0 - 1e-12)))


# --- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offered:
    """What some traffic asks of whatever serves it. Rows are those of ``requests``; where a prompt
    has several answers, its first row stands for the request.

    Args:
        requests: the traffic.
        leads: rows that stand for a request. Shape (rows,).
        counted: requests that count, where that is known before a run; otherwise None, because
            requests wait for other ones, and when they are sent depends on the deployment.
        most_cut: most requests that the warm-up cuts.
        start_s, last_s: when the first request that counts and the last one of all are sent; NaN
            where that depends on the deployment.
        include_drain: whether the time after the last request counts in any case.
    """

    requests: Requests
    leads: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_] | None
    most_cut: int
    start_s: float
    last_s: float
    include_drain: bool

    @cached_property
    def places(self) -> Ints:
        """Rows that stand for a request. Shape (requests,)."""
        return np.flatnonzero(self.leads)

    @cached_property
    def count(self) -> int:
        """Requests in all."""
        return int(self.leads.sum())

    @property
    def least_counted(self) -> int:
        """Fewest requests that count."""
        return self.count - self.most_cut if self.counted is None else int(self.counted.sum())

    @property
    def timed(self) -> bool:
        """Whether the times of sending are known."""
        return self.counted is not None

    @property
    def window_s(self) -> float:
        """From the first request that counts to the last one, NaN where it is not known."""
        return self.last_s - self.start_s

    @cached_property
    def rate_per_s(self) -> float:
        """Requests sent in the window, for each second of it; NaN where that is not known, and
        infinite where all come at once."""
        if self.counted is None:
            return float("nan")
        return int(self.counted.sum()) / self.window_s if self.window_s > 0 else math.inf

    @cached_property
    def input_tokens(self) -> Ints:
        """Prompts of the requests. Shape (requests,)."""
        return self.requests.input_tokens[self.places]

    @cached_property
    def output_tokens(self) -> Ints:
        """Answers, those of one prompt together. Shape (requests,)."""
        return np.add.reduceat(self.requests.output_tokens, self.places)

    @cached_property
    def total_input_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return int(self.input_tokens.sum())

    @cached_property
    def total_output_tokens(self) -> int:
        """Output tokens of all requests."""
        return int(self.output_tokens.sum())

    @cached_property
    def quantiles(self) -> dict[str, dict[str, float]]:
        """Mean and percentiles of ``input_tokens`` and ``output_tokens``, as ``p99``."""
        return {
            "input_tokens": _spread(self.input_tokens),
            "output_tokens": _spread(self.output_tokens),
        }

    @property
    def users(self) -> int:
        """Requests that closed loops keep under way at most."""
        return sum(self.requests.pool_concurrency)

    @cached_property
    def closed(self) -> bool:
        """Whether every request belongs to a closed loop."""
        return bool((self.requests.pool >= 0).all())


def offered(requests: Requests, measurement: Measurement) -> Offered:
    """What traffic asks for, with the part of it that counts (simulator.results.window)."""
    answers = requests.answers
    leads = np.ones(len(requests), dtype=np.bool_) if answers is None else answers.leads
    count = int(leads.sum())
    most_cut = min(int(measurement.warmup_fraction * count), count - 1)
    counted = None
    start_s = last_s = float("nan")
    if requests.open_loop:
        sent_s: Floats = requests.arrival_s
        times = np.sort(sent_s[leads])
        start_s, last_s = float(times[most_cut]), float(times[-1])
        counted = leads & (sent_s >= start_s)
    return Offered(requests, leads, counted, most_cut, start_s, last_s, measurement.include_drain)


def _spread(values: Ints) -> dict[str, float]:
    found = np.percentile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        **{f"p{p}": float(q) for p, q in zip(QUANTILES, found, strict=True)},
    }
