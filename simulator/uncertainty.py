"""How far a prediction may be off: an interval for every figure that people decide by.

Three sources: kernels that take longer or shorter than their fitted forms (residual quantiles of
the hardware profile), engines (errors of the fit to measured servers on groups it did not see), and
chance (so many requests were drawn). The first two lengthen or shorten all steps of a second and a
third run, so that queues answer as queues do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from simulator.cluster import FrontEndTimes
from simulator.costs.protocol import StepCost
from simulator.costs.scaled import scaled
from simulator.deployment import ResolvedDeployment
from simulator.results.answers import times_of
from simulator.results.fleet import Member
from simulator.results.record import COMPLETED, Accountant, RunRecord, StepTable
from simulator.results.slo import has_limits, judge, slo_of_classes
from simulator.results.window import Window, window_of
from simulator.scenario.measurement import Measurement
from simulator.workload.requests import OPEN_LOOP, Floats, Requests

LEVEL = 0.8
"""Share of measurements that should lie inside: residuals are kept as 10 and 90% quantiles."""

MOST_REQUESTS = 2000
"""Of longer traffic, the first so many stand for all."""

UNFITTED = (-0.25, 0.25)
"""ln(real / predicted) of steps of engines that are fitted to no server: an assumption."""

Figures = dict[str, float]
Range = tuple[float, float]

_SPREAD = ("ttft_ms", "tpot_ms", "e2e_ms")
_PERCENTILES = (50, 90, 95, 99)
_SHARE = "slo.goodput_share"
LEAST_SHARE = 1e-3
"""Of requests that meet their SLO; so that ratios of shares exist."""
_BATCHES = 10
_SAME = 0.02
"""Share of requests by which runs may differ in what completes."""


@dataclass(frozen=True, slots=True)
class Spread:
    """By how much steps may be off: 10 and 90% quantiles of ln(real / predicted) for steps with
    prompts and for those without."""

    prompts: Range
    decode: Range


Steps = tuple[StepCost, FrontEndTimes]
"""How long everything takes on the replicas of a pool."""

Rerun = Callable[[Requests, Sequence[Steps]], RunRecord]
"""Runs traffic with other times, pool by pool, through the same deployment."""


def uncertainty(
    measurement: Measurement,
    members: Sequence[Member],
    record: RunRecord,
    steps: Sequence[Steps],
    rerun: Rerun,
) -> dict[str, Any] | None:
    """The section of a summary; None if Ctrl-C ended one of its runs.

    Args:
        measurement: which part of a run counts.
        members: the pools that were simulated.
        record: of the run.
        steps: the times of each pool.
        rerun: see ``Rerun``.

    Returns:
        ``level``; ``factors``, a pair of bounds relative to the figure by its path in the summary;
        ``step_time_factor``, the spread of both kinds of steps (the widest of any pool);
        ``requests``, how many the two other runs had.
    """
    spreads = [
        spread_of(member.deployment, part, member.accountant)
        for member, part in zip(members, _steps_of_groups(record), strict=True)
    ]
    requests = record.requests
    some = first_part(requests)
    deployment = members[0].deployment
    base = figures(record, measurement, deployment)
    runs = [record if some is requests else rerun(some, steps)]
    for side in (0, 1):
        other = []
        for spread, (cost, front_end) in zip(spreads, steps, strict=True):
            prompts, decode = math.exp(spread.prompts[side]), math.exp(spread.decode[side])
            around = FrontEndTimes(*(part * prompts for part in front_end))
            other.append((scaled(cost, prompts, decode), around))
        runs.append(rerun(some, other))
    if any(run.interrupted for run in runs):
        return None
    start, *found = (figures(run, measurement, deployment) for run in runs)
    # Where other requests complete, latencies of those that did cannot be compared.
    shares = [float((run.outcome == COMPLETED).mean()) for run in runs]
    comparable = max(shares) - min(shares) <= _SAME
    chance = _chance(record, measurement, deployment)
    factors: dict[str, list[float]] = {}
    for name, value in base.items():
        if name.startswith("latency.") and not comparable:
            continue
        if value <= 0.0 or min(run.get(name, 0.0) for run in (start, *found)) <= 0.0:
            continue
        ratios = [other[name] / start[name] for other in found]
        factors[name] = _factors([1.0, *ratios], chance.get(name, (0.0, 0.0)))
    rate = factors.get("throughput.output_tokens_per_s")
    if rate is not None:
        factors["cost.usd_per_million_output_tokens"] = [1.0 / end for end in rate[::-1]]
    return {
        "level": LEVEL,
        "requests": len(some),
        "step_time_factor": {
            "with_prompts": _widest([spread.prompts for spread in spreads]),
            "decode_only": _widest([spread.decode for spread in spreads]),
        },
        "factors": factors,
    }


def _widest(ranges: Sequence[Range]) -> list[float]:
    return [math.exp(min(low for low, _ in ranges)), math.exp(max(high for _, high in ranges))]


def _steps_of_groups(record: RunRecord) -> list[StepTable]:
    """The steps of each pool."""
    steps = record.steps
    if len(record.groups) == 1:
        return [steps]
    return [
        steps.select((steps.replica >= group.first) & (steps.replica < group.end))
        for group in record.groups
    ]


def first_part(requests: Requests, most: int = MOST_REQUESTS) -> Requests:
    """The first requests; all of them where closed loops stand before open arrivals."""
    closed = requests.pool != OPEN_LOOP
    if closed.any() and not closed.all():
        return requests
    return requests.first(most)


def spread_of(deployment: ResolvedDeployment, steps: StepTable, accountant: Accountant) -> Spread:
    """What kernels and engine together leave open, as root of the sum of squares."""
    fit = deployment.engine.overheads[-1].fit
    left_out: Mapping[str, Range] = fit.left_out_spread if fit else {}
    mixed = steps.prefill > 0
    sides = {}
    for name, rows in (("ttft_ms", mixed), ("tpot_ms", ~mixed)):
        part = steps.select(np.flatnonzero(rows))
        kernels = accountant.residual_range(part) if len(part) else (0.0, 0.0)
        engine = left_out.get(name, UNFITTED)
        sides[name] = (
            -math.hypot(min(engine[0], 0.0), kernels[0]),
            math.hypot(max(engine[1], 0.0), kernels[1]),
        )
    return Spread(prompts=sides["ttft_ms"], decode=sides["tpot_ms"])


def figures(record: RunRecord, measurement: Measurement, deployment: ResolvedDeployment) -> Figures:
    """What gets an interval, by its path in the summary; what is undefined is left out."""
    times, window = times_of(record), window_of(record, measurement)
    found: Figures = {}
    for name in _SPREAD:
        values = _defined(getattr(times, name), window.counted)
        if len(values):
            found[f"latency.{name}.mean"] = float(values.mean())
            for percent, value in zip(
                _PERCENTILES, np.percentile(values, _PERCENTILES), strict=True
            ):
                found[f"latency.{name}.p{percent}"] = float(value)
    if window.duration_s > 0:
        ended = window.holds(record.finish_s)
        tokens = float(record.requests.output_tokens[ended].sum())
        found["throughput.output_tokens_per_s"] = tokens / window.duration_s
    met = _met(record, window, deployment)
    if len(met):
        found[_SHARE] = max(float(met.mean()), LEAST_SHARE)
    return found


def _met(record: RunRecord, window: Window, deployment: ResolvedDeployment) -> np.ndarray:
    """Which of the requests that count meet their SLO; empty where there is none."""
    if not any(has_limits(slo) for slo in slo_of_classes(deployment.scenario).values()):
        return np.zeros(0)
    met: np.ndarray = judge(deployment, times_of(record)).met[window.counted]
    return met


def _chance(
    record: RunRecord, measurement: Measurement, deployment: ResolvedDeployment
) -> dict[str, Range]:
    """What another draw of the traffic could give, as logarithms: of percentiles from their order
    statistics, of means from the means of batches of requests in the order of sending."""
    times, window = times_of(record), window_of(record, measurement)
    z = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
    found: dict[str, Range] = {}
    for name in _SPREAD:
        values = _defined(getattr(times, name), window.counted)
        if len(values) < 2 * _BATCHES:
            continue
        batches = np.array([part.mean() for part in np.array_split(values, _BATCHES)])
        mean = float(values.mean())
        if mean > 0.0:
            error = z * float(batches.std(ddof=1)) / math.sqrt(_BATCHES) / mean
            found[f"latency.{name}.mean"] = (-error, error)
        ordered = np.sort(values)
        for percent in _PERCENTILES:
            found[f"latency.{name}.p{percent}"] = _of_order(ordered, percent / 100.0, z)
    met = _met(record, window, deployment)
    if len(met) >= 2 * _BATCHES and met.any():
        batches = np.array([part.mean() for part in np.array_split(met, _BATCHES)])
        error = z * float(batches.std(ddof=1)) / math.sqrt(_BATCHES) / float(met.mean())
        # As often as the level says, none of n misses where fewer than 1.6/n miss on average.
        found[_SHARE] = (-max(error, -math.log(1.0 - LEVEL) / len(met)), error)
    return found


def _of_order(ordered: Floats, share: float, z: float) -> Range:
    n = len(ordered)
    away = z * math.sqrt(n * share * (1.0 - share))
    middle = float(np.percentile(ordered, 100.0 * share))
    low = float(ordered[max(0, math.floor(n * share - away) - 1)])
    high = float(ordered[min(n - 1, math.ceil(n * share + away) - 1)])
    if low <= 0.0 or middle <= 0.0:
        return (0.0, 0.0)
    return (min(0.0, math.log(low / middle)), max(0.0, math.log(high / middle)))


def _factors(ratios: Sequence[float], chance: Range) -> list[float]:
    low = math.hypot(math.log(min(ratios)), chance[0])
    high = math.hypot(math.log(max(ratios)), chance[1])
    return [math.exp(-low), math.exp(high)]


def _defined(values: Floats, counted: np.ndarray) -> Floats:
    chosen: Floats = values[counted]
    return chosen[np.isfinite(chosen)]
