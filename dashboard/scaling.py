"""Scenarios with another number of replicas over time: fixed, autoscaled, on spot devices."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import simulator
from dashboard.background import Report, Work
from dashboard.choice import Choice
from simulator import History, Result

FIXED = "fixed"
POLICIES = ("concurrency", "queue", "utilization", "predictive")
"""Kinds of autoscaling that a few numbers describe."""

COLD_START = {"provisioning_s": 90, "boot_s": 30, "warmup_s": 40}
"""What replicas are proposed to need, where the scenario says that they start at once."""

FAILURES = {"mtbf_h": 24, "repair_s": 600}
SPOT = {"interruptions_per_hour": 0.5, "notice_s": 120, "replacement_s": 60}
"""What a switch turns on at first."""

_TARGETS = {"concurrency": 8.0, "queue": 2.0, "utilization": 0.7, "predictive": 1.0}

PREVIEW_REQUESTS = 2000

MOST_INTERVALS = 240


@dataclass(frozen=True)
class Day:
    """A run and its course.

    Args:
        summary: as ``simulate run --json`` prints it.
        history: the same run over time.
        preview: only the first requests were simulated.
    """

    summary: dict[str, Any]
    history: History
    preview: bool


def day(choice: Choice) -> Work[Day]:
    """Simulates: the first requests of long traffic, then all of it."""

    def work(report: Report[Day]) -> Day:
        def told(done: int, total: int, _: float) -> None:
            report.progress(done, total)

        with choice.located() as scenario:
            report.stage("first requests")
            first = simulator.simulate(
                scenario, intervals=False, progress=told, at_most=PREVIEW_REQUESTS
            )
            report.give(_day(first, preview=True))
            report.stage("all requests")
            result = simulator.simulate(scenario, intervals=False, progress=told)
            report.stage("figures")
            return _day(result, preview=False)

    return work


def _day(result: Result, *, preview: bool) -> Day:
    """In as many intervals as the requests can fill: more would show noise."""
    summary = result.summary()
    bins = min(MOST_INTERVALS, max(40, summary["requests"]["total"] // 15))
    return Day(summary, result.history(bins), preview)


def policy_of(choice: Choice) -> str:
    """Kind of autoscaling, or ``fixed``."""
    scaling = choice.scenario.deployment.autoscaling
    return FIXED if scaling is None else scaling.kind


def fixed(choice: Choice, replicas: int) -> Choice:
    """So many replicas all the time; they start at once where nothing ever ends one."""
    deployment = choice.scenario.deployment
    rest = choice.without("deployment.autoscaling").without("deployment.replicas")
    if deployment.failures is None and deployment.spot is None:
        rest = rest.without("deployment.cold_start").with_set("deployment.cold_start", "{}")
    return rest.with_set("deployment.autoscaling", "null").with_set(
        "deployment.replicas", str(replicas)
    )


def scaled(choice: Choice, policy: str, target: float | None = None) -> Choice:
    """Replicas that come and go by a policy, between the limits that there are or, of a fixed
    number, between one and twice as many."""
    deployment = choice.scenario.deployment
    old = deployment.autoscaling
    least, most = 1, max(2, 2 * deployment.replicas)
    if old is not None:
        least, most = getattr(old, "min", 1), old.most
    goal = "requests_per_s" if policy == "predictive" else "target"
    scaling = {"kind": policy, goal: target or _TARGETS[policy], "min": least, "max": most}
    rest = choice.without("deployment.autoscaling").without("deployment.replicas")
    if choice.base.deployment.replicas != 1:
        rest = rest.with_set("deployment.replicas", "1")
    start = deployment.cold_start.model_dump(exclude_defaults=True)
    if not start:
        rest = rest.without("deployment.cold_start")
        rest = rest.with_set("deployment.cold_start", json.dumps(COLD_START))
    return rest.with_set("deployment.autoscaling", json.dumps(scaling))


def switched(choice: Choice, path: str, values: dict[str, Any] | None) -> Choice:
    """With failures or spot devices as given, or without (None)."""
    own = choice.without(path)
    return own.with_set(path, "null" if values is None else json.dumps(values))


def fitting_target(summary: dict[str, Any]) -> float:
    """Requests in flight at a replica, on average, as a target for the policy ``concurrency``."""
    load = summary["scheduling"]
    return float(max(1, math.ceil((load["running_mean"] or 0.0) + (load["waiting_mean"] or 0.0))))
