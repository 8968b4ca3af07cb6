"""Batch jobs and asynchronous queues: when they were done, in time or not, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.deployment import ResolvedDeployment
from simulator.results.fleet import Part
from simulator.results.latency import RequestTimes, statistics
from simulator.results.money import paid_for
from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import BatchWorkload, MixWorkload, QueueWorkload
from simulator.workload.requests import Ints

Job = BatchWorkload | QueueWorkload


def jobs_of(scenario: Scenario) -> dict[str, Job]:
    """Classes of traffic that wait outside the server, by name."""
    workload = scenario.workload
    if isinstance(workload, BatchWorkload | QueueWorkload):
        return {"default": workload}
    if not isinstance(workload, MixWorkload):
        return {}
    return {
        c.name: c.workload
        for c in workload.classes
        if isinstance(c.workload, BatchWorkload | QueueWorkload)
    }


def jobs_section(
    deployment: ResolvedDeployment, times: RequestTimes, parts: Sequence[Part]
) -> dict[str, Any]:
    """Of each such class, all of its requests, warm-up or not.

    Cost: of each pool's cost of the whole run, the share that the class has of all tokens worked on
    there (prompt tokens that were not found in the cache, and output tokens).
    """
    jobs = jobs_of(deployment.scenario)
    if not jobs:
        return {}
    record = times.record
    tokens = record.generated + np.where(
        np.isfinite(record.start_s), record.requests.input_tokens - record.cached_tokens, 0
    )
    sections = {}
    for i, name in enumerate(record.requests.classes):
        job = jobs.get(name)
        if job is None:
            continue
        own = record.requests.class_id == i
        sections[name] = _section(job, times, own, _spent(parts, tokens, own))
    return sections


def _spent(parts: Sequence[Part], tokens: Ints, own: npt.NDArray[np.bool_]) -> float | None:
    """What a class's share of the pools cost; None if a price is not known."""
    spent = 0.0
    for part in parts:
        worked = tokens * (part.record.replica >= 0)
        everything, mine = int(worked.sum()), int(worked[own].sum())
        paid = paid_for([part], [part.run_held_s])
        if paid is None:
            return None
        spent += paid * mine / everything if everything else 0.0
    return spent


def _section(job: Job, times: RequestTimes, own: Any, usd: float | None) -> dict[str, Any]:
    record = times.record
    requests, done = int(own.sum()), int((own & times.completed).sum())
    took_s = times.e2e_ms[own & times.completed] / 1e3
    late = int((took_s > job.deadline_s).sum()) if job.deadline_s is not None else 0
    judged = job.deadline_s is not None and requests > 0
    common = {
        "kind": job.kind,
        "requests": requests,
        "completed": done,
        "max_in_flight": job.max_in_flight,
        "deadline_s": job.deadline_s,
        "met": done == requests and late == 0 if judged else None,
        "met_share": (done - late) / requests if judged else None,
        "outside_s": statistics((record.queued_s - record.sent_s)[own]),
        "usd": usd,
        "usd_per_request": None if usd is None or not done else usd / done,
    }
    if isinstance(job, QueueWorkload):
        return {**common, "completion_s": statistics(took_s)}
    whole = done == requests > 0
    return {
        **common,
        "submitted_s": job.submit_at_s,
        "completion_s": float(took_s.max()) if whole else None,
    }
