"""The same requests at several rates, as multiples of what the deployment is predicted to serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simulator.cluster import run_cluster
from simulator.errors import UserError
from simulator.resolve import Resolved
from simulator.results.record import COMPLETED
from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import (
    Arrivals,
    BurstArrivals,
    ClosedLoopArrivals,
    DiurnalArrivals,
    MixWorkload,
    RampArrivals,
    SyntheticWorkload,
    TraceWorkload,
    Workload,
)
from simulator.workload import build_requests
from simulator.workload.requests import Requests

MULTIPLES = (0.1, 0.5, 0.8, 1.0, 1.2)
"""From idle through the knee."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is served in one run.

    Args:
        multiple: of the predicted capacity; None for traffic that has no rate.
        rate_per_s: requests a second; None likewise.
        scenario: the scenario with this traffic.
        requests: the traffic.
    """

    multiple: float | None
    rate_per_s: float | None
    scenario: Scenario
    requests: Requests


def loads_of(
    scenario: Scenario,
    resolved: Resolved,
    multiples: Sequence[float] | None,
    base: Path | None = None,
) -> tuple[list[Load], float | None]:
    """The runs that are wanted, and the predicted capacity in requests/s.

    Args:
        scenario: as the user wrote it.
        resolved: the same.
        multiples: of the capacity; default: ``MULTIPLES``.
        base: folder that relative paths start from.

    Raises:
        UserError: multiples of traffic that has no rate: closed loops, sessions, bursts.
    """
    requests = _requests(scenario, base)
    own = mean_rate(requests)
    if own is None:
        if multiples is not None:
            raise UserError(
                "the scenario's traffic has no rate to multiply",
                where="--rates",
                hint="leave it out: closed loops, sessions and bursts run once as they are",
            )
        return [Load(None, None, scenario, requests)], None
    limit = capacity(resolved, requests)
    loads = []
    for multiple in multiples or MULTIPLES:
        wanted = multiple * limit
        scaled = scenario.model_copy(update={"workload": faster(scenario.workload, wanted / own)})
        loads.append(Load(multiple, wanted, scaled, _requests(scaled, base)))
    return loads, limit


def _requests(scenario: Scenario, base: Path | None) -> Requests:
    rng = np.random.default_rng(scenario.measurement.seed)
    return build_requests(scenario.workload, rng, base)


def mean_rate(requests: Requests) -> float | None:
    """Requests/s over all gaps; None where requests wait for each other or come at once."""
    if not requests.open_loop:
        return None
    span = float(requests.arrival_s.max() - requests.arrival_s.min())
    return (len(requests) - 1) / span if span > 0 else None


def capacity(resolved: Resolved, requests: Requests) -> float:
    """Requests completed a second of computing when all are there from the start, predicted."""
    record = run_cluster(
        at_once(requests),
        resolved.deployment.limits,
        resolved.layout.blocks,
        resolved.cost,
        layout=resolved.layout,
        front_end=resolved.front_end,
    )
    if record.interrupted:
        raise KeyboardInterrupt
    return float((record.outcome == COMPLETED).sum() / record.steps.duration_s.sum())


def at_once(requests: Requests) -> Requests:
    """The same without any waiting for the clock."""
    return replace(requests, arrival_s=np.zeros_like(requests.arrival_s))


def faster(workload: Workload, factor: float) -> Workload:
    """The same requests sent ``factor`` times as fast: all times of the traffic shrink."""
    if isinstance(workload, TraceWorkload):
        return workload.model_copy(update={"rate_scale": workload.rate_scale * factor})
    if isinstance(workload, MixWorkload):
        classes = tuple(
            one.model_copy(update={"workload": faster(one.workload, factor)})
            for one in workload.classes
        )
        return workload.model_copy(update={"classes": classes})
    assert isinstance(workload, SyntheticWorkload), "sessions have no rate"
    lasts = workload.duration_s
    return workload.model_copy(
        update={
            "arrivals": _faster_arrivals(workload.arrivals, factor),
            "duration_s": None if lasts is None else lasts / factor,
        }
    )


def _faster_arrivals(arrivals: Arrivals, factor: float) -> Arrivals:
    assert not isinstance(arrivals, ClosedLoopArrivals | BurstArrivals), "they have no rate"
    if isinstance(arrivals, RampArrivals):
        return arrivals.model_copy(
            update={
                "start_per_s": arrivals.start_per_s * factor,
                "end_per_s": arrivals.end_per_s * factor,
                "over_s": arrivals.over_s / factor,
            }
        )
    update = {"rate_per_s": arrivals.rate_per_s * factor}
    if isinstance(arrivals, DiurnalArrivals):
        update |= {
            "period_s": arrivals.period_s / factor,
            "peak_at_s": arrivals.peak_at_s / factor,
        }
    return arrivals.model_copy(update=update)
