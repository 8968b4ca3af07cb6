"""Tasks with the traffic of a scenario scaled."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.errors import ScenarioError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.tasks import Summary, Task
from simulator.planner.traffic import scaled
from simulator.results.definitions import value_at
from simulator.scenario import Scenario
from simulator.scenario.workload import (
    BatchWorkload,
    MixWorkload,
    QueueWorkload,
    SessionsWorkload,
    SyntheticWorkload,
    Workload,
)

FIGURES: tuple[str, ...] = (
    "latency.ttft_ms.p50",
    "latency.ttft_ms.p99",
    "latency.tpot_ms.p50",
    "latency.tpot_ms.p99",
    "latency.e2e_ms.mean",
    "latency.e2e_ms.p50",
    "latency.e2e_ms.p99",
    "throughput.requests_per_s",
    "throughput.output_tokens_per_s",
    "slo.goodput_requests_per_s",
    "slo.goodput_share",
    "kv_cache.use_mean",
    "scheduling.batch_size_mean",
    "utilization.busy_share",
    "cost.usd_per_million_output_tokens",
)
"""What is noted of every point."""


def task_at(
    scenario: Scenario,
    factor: float,
    *,
    seed: int = 0,
    limits: tuple[Constraint, ...] = (),
    intervals: bool = False,
) -> Task:
    """The scenario with its traffic scaled and its seed moved on by ``seed``."""
    changes: dict[str, object] = {}
    if factor != 1.0:
        changes["workload"] = scaled(scenario.workload, factor)
    if seed:
        moved = scenario.measurement.seed + seed
        changes["measurement"] = scenario.measurement.model_copy(update={"seed": moved})
    return Task(scenario.model_copy(update=changes), intervals=intervals, limits=limits)


def check_scalable(scenario: Scenario) -> None:
    """Makes sure that the traffic has a rate, or users, that can be scaled.

    Raises:
        ScenarioError: it has none.
    """
    for where, workload in _classes(scenario.workload):
        if isinstance(workload, BatchWorkload):
            raise ScenarioError(
                "a batch job comes all at once, so there is no rate to raise",
                where=where,
                hint="use a kind of workload with arrivals, such as synthetic or queue",
            )
        if isinstance(workload, SyntheticWorkload | SessionsWorkload | QueueWorkload) and (
            workload.arrivals.kind == "burst"
        ):
            raise ScenarioError(
                "a burst comes all at once, so there is no rate to raise",
                where=f"{where}.arrivals",
                hint="use arrivals with a rate, such as {kind: poisson, rate_per_s: 1}, or users",
            )


def loads_of(scenario: Scenario, factors: Sequence[float]) -> list[float]:
    """The factors that can be had: of a closed loop, those that come to whole users."""
    users = closed_loop_users(scenario)
    if users is None:
        return list(factors)
    return [max(1, round(users * factor)) / users for factor in factors]


def closed_loop_users(scenario: Scenario) -> int | None:
    """Users of a workload that is one closed loop; None of any other."""
    workload = scenario.workload
    if isinstance(workload, SyntheticWorkload) and workload.arrivals.kind == "closed_loop":
        return workload.arrivals.concurrency
    return None


def _classes(workload: Workload) -> list[tuple[str, Workload | object]]:
    if isinstance(workload, MixWorkload):
        return [(f"workload.classes.{i}.workload", each.workload)
                for i, each in enumerate(workload.classes)]  # fmt: skip
    return [("workload", workload)]


def number_at(summary: Summary, path: str) -> float | None:
    """A figure of a summary; None where it is undefined."""
    value = value_at(summary, path)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None
