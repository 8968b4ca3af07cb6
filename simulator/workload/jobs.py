"""Traffic that waits outside the server: batch jobs and asynchronous queues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.scenario.workload import (
    BatchWorkload,
    BurstArrivals,
    QueueWorkload,
    SyntheticWorkload,
)
from simulator.workload.requests import Requests
from simulator.workload.synthetic import build_synthetic

_COMMON = ("lengths", "shared_prefix", "reasoning", "max_tokens", "stop_per_token", "ignore_eos")


def build_job(
    workload: BatchWorkload | QueueWorkload,
    rng: np.random.Generator,
    base: Path | None = None,
    where: str = "workload",
) -> Requests:
    """Requests with the time at which they come to the queue outside, and their workers.

    Raises:
        ScenarioError, TraceError: as ``build_synthetic``.
    """
    common = {name: getattr(workload, name) for name in _COMMON}
    if isinstance(workload, BatchWorkload):
        like = SyntheticWorkload(arrivals=BurstArrivals(), requests=workload.requests, **common)
        made, start_s = build_synthetic(like, rng, base, where), workload.submit_at_s
        what = f"batch job: {len(made):,} requests"
    else:
        size = {"requests": workload.requests, "duration_s": workload.duration_s}
        like = SyntheticWorkload(arrivals=workload.arrivals, **size, **common)
        made, start_s = build_synthetic(like, rng, base, where), 0.0
        what = made.source.replace("synthetic", "queue", 1)
    return replace(
        made,
        arrival_s=made.arrival_s + start_s,
        workers=np.zeros(len(made), dtype=np.int64),
        worker_limits=(workload.max_in_flight,),
        source=f"{what}, at most {workload.max_in_flight:,} at once",
    )
