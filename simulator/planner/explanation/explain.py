"""Why a deployment is as it is: what binds, what requests wait for, what a change would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from simulator.errors import UserError
from simulator.planner.explanation.binding import (
    Balance,
    Operator,
    Resource,
    balances,
    operators,
    resources,
)
from simulator.planner.explanation.changes import changes
from simulator.planner.explanation.explain_words import sentences
from simulator.planner.explanation.sensitivities import Sensitivities, sensitivities
from simulator.planner.explanation.waits import PARTS, waits
from simulator.planner.jobs.work import Workplace
from simulator.results import Result
from simulator.results.fleet import parts_of
from simulator.scenario import Scenario
from simulator.simulation import simulate
from simulator.workload.requests import Floats

SLOWEST = 0.99
"""Requests at or beyond this quantile of a latency are its slowest."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a latency is made of.

    Args:
        mean_ms: of all requests, milliseconds of each part; they add up to the mean.
        slowest_ms: the same of the slowest hundredth, who decide its p99.
    """

    mean_ms: dict[str, float]
    slowest_ms: dict[str, float]

    def shares(self, which: str = "mean_ms") -> dict[str, float]:
        """Parts of 1."""
        parts: dict[str, float] = getattr(self, which)
        whole = sum(parts.values())
        return {name: part / whole if whole > 0 else 0.0 for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found.

    Args:
        name, description: of the scenario.
        summary: what binds and what helps most, in sentences.
        ttft, e2e: what the latencies of requests are made of.
        admission: shares of the replicas' time in which sequence slots, KV blocks, the token
            budget, adapter slots or a batch kept a waiting request out; ``arrivals``: in which
            nothing did.
        operators, resources: by their share of the time of steps.
        balances: of every pool that decodes, the batch at which that turns compute-bound.
        changes: see ``Sensitivities``; None where they were not asked for.
    """

    name: str
    description: str
    summary: tuple[str, ...]
    ttft: Breakdown
    e2e: Breakdown
    admission: dict[str, float]
    operators: tuple[Operator, ...]
    resources: tuple[Resource, ...]
    balances: tuple[Balance, ...]
    changes: Sensitivities | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for name in ("ttft", "e2e"):
            breakdown: Breakdown = getattr(self, name)
            found[name]["shares"] = breakdown.shares()
        return found


def explain(
    scenario: Scenario,
    work: Workplace,
    *,
    seeds: int = 3,
    highest: bool = False,
    told: Callable[[str], None] | None = None,
) -> Explanation:
    """Simulates a scenario and every change of it that makes sense.

    Args:
        scenario: what to explain.
        work: where the changes are simulated.
        seeds: different traffic that each change is tried with, to tell its effect from chance;
            0: no change is tried.
        highest: whether to look for the highest rate with every change of the deployment as well.
        told: called with what is being done.

    Raises:
        UserError: the scenario cannot be simulated, or has no SLO or rate for ``highest``.
        KeyboardInterrupt: Ctrl-C.
    """
    result = simulate(scenario, intervals=False)
    if result.record.interrupted:
        raise KeyboardInterrupt
    found = explain_result(result)
    if not seeds:
        return found
    if told is not None:
        told("changes")
    tried = sensitivities(scenario, changes(scenario), work, seeds=seeds, highest=highest)
    return explain_result(result, tried)


def explain_result(result: Result, tried: Sensitivities | None = None) -> Explanation:
    """The same of a run that is there, and of changes that were tried.

    Raises:
        UserError: no request that counts has completed.
    """
    scenario = result.deployment.scenario
    went = waits(result.record, result.members, result.window)
    if not len(went.rows):
        raise UserError("no request that counts has completed, so there is nothing to explain")
    parts = parts_of(result.members, result.record, result.window)
    partial = Explanation(
        name=scenario.name,
        description=scenario.description,
        summary=(),
        ttft=_breakdown(went.ttft),
        e2e=_breakdown(went.e2e),
        admission=went.admission,
        operators=operators(parts, result.window),
        resources=resources(parts),
        balances=balances(parts),
        changes=tried,
    )
    return replace(partial, summary=sentences(partial.as_dict(), result.summary(intervals=False)))


def _breakdown(parts: Mapping[str, Floats]) -> Breakdown:
    whole = np.sum([parts[name] for name in PARTS], axis=0)
    slow = whole >= np.quantile(whole, SLOWEST)
    return Breakdown(
        {name: 1e3 * float(parts[name].mean()) for name in PARTS},
        {name: 1e3 * float(parts[name][slow].mean()) for name in PARTS},
    )
