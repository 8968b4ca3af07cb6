"""Arrival processes, length distributions, trace readers and sessions.

``build_requests`` turns what a scenario says about its traffic into columns of requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import ScenarioError

if TYPE_CHECKING:
    import numpy as np

    from simulator.scenario.workload import (
        BatchWorkload,
        QueueWorkload,
        SessionsWorkload,
        SyntheticWorkload,
        TraceSlice,
        TraceWorkload,
        Workload,
    )
    from simulator.workload.describe import TraceDescription
    from simulator.workload.requests import Requests

__all__ = ["build_requests", "describe_trace", "table_names", "trace_names"]


def build_requests(
    workload: Workload, rng: np.random.Generator, base: Path | None = None
) -> Requests:
    """The requests of a workload; the same generator state gives the same requests.

    Args:
        workload: the scenario's traffic.
        rng: independent children are spawned from it; its own stream is not drawn from.
        base: folder that relative trace paths start from (the scenario file's), the working
            directory if None.

    Raises:
        UserError: one of its subclasses, for traffic that cannot be built or lasts too long.
    """
    from simulator.scenario.workload import MixWorkload
    from simulator.workload.arrivals import LONGEST_S

    if isinstance(workload, MixWorkload):
        from simulator.workload.mix import build_mix

        requests = build_mix(workload, rng, base)
    else:
        requests = build_one(workload, rng, base, "workload")
    latest_s = float(requests.arrival_s.max())
    if latest_s > LONGEST_S:
        raise ScenarioError(
            f"a request comes {latest_s:.3g} s after the start or its predecessor; a run may last"
            f" {LONGEST_S:.0e} s (31 years), so that the clock can still tell microseconds",
            where="workload",
            hint="raise the rate, or shorten the pause or the trace",
        )
    return requests


def build_one(
    workload: SyntheticWorkload | TraceWorkload | SessionsWorkload | BatchWorkload | QueueWorkload,
    rng: np.random.Generator,
    base: Path | None,
    where: str,
) -> Requests:
    """The requests of one class of traffic, whose key in the scenario is ``where``."""
    requests = _without_adapters(workload, rng, base, where)
    if workload.adapters is None:
        return requests
    from simulator.workload.adapters import assigned

    return assigned(requests, workload.adapters, rng.spawn(1)[0])


def _without_adapters(
    workload: SyntheticWorkload | TraceWorkload | SessionsWorkload | BatchWorkload | QueueWorkload,
    rng: np.random.Generator,
    base: Path | None,
    where: str,
) -> Requests:
    if workload.kind == "synthetic":
        from simulator.workload.synthetic import build_synthetic

        return build_synthetic(workload, rng, base, where)
    if workload.kind == "batch" or workload.kind == "queue":
        from simulator.workload.jobs import build_job

        return build_job(workload, rng, base, where)
    if workload.kind == "sessions":
        from simulator.workload.sessions import build_sessions

        return build_sessions(workload, rng, base, where)
    from simulator.workload.traces import build_trace

    return build_trace(workload, rng, base, where)


def describe_trace(
    path_or_name: str,
    format: str = "auto",
    slice: TraceSlice | None = None,
    base: Path | None = None,
) -> TraceDescription:
    """Rates, lengths, burstiness and prefix sharing of a trace; see ``describe.describe_trace``."""
    from simulator.workload.describe import describe_trace

    return describe_trace(path_or_name, format, slice, base)


def trace_names() -> list[str]:
    """Names of the traces that are shipped."""
    from simulator.workload.shipped import SHIPPED

    return sorted(SHIPPED)


def table_names() -> list[str]:
    """Names of the tables of rates and of lengths over time that are shipped."""
    from simulator.workload.shipped import TABLES

    return sorted(TABLES)
