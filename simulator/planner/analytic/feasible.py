"""Whether a deployment can be simulated at all: does the model fit, does everything go together."""

from __future__ import annotations

from pathlib import Path

from simulator.cluster.feasible import check_groups, check_limits
from simulator.errors import UserError
from simulator.resolution.pools import group_of, resolve_pools
from simulator.resolution.transfers import paths_of
from simulator.scenario.scenario import Scenario
from simulator.workload.requests import Requests


def fits(scenario: Scenario, base: Path | None = None, requests: Requests | None = None) -> str:
    """Why a scenario's deployment cannot run, as a simulation would say it; empty if it can.

    The same code as a simulation's, so memory is exact: weights, activations, what the engine
    reserves, and at least one KV block, on the tightest device of every pool. It costs about a
    millisecond, because tables of step times are made when the first step asks for them. Requests
    that are too long for the KV cache or the context are found if they are given.
    """
    try:
        pools = resolve_pools(scenario, base)
        paths_of(scenario, pools)
        for pool in pools:
            check_limits(pool.deployment.limits)
        if requests is not None:
            groups = [group_of(each, each.resolved.cost, each.resolved.front_end) for each in pools]
            check_groups(requests, groups, oversized=scenario.deployment.oversized_requests)
    except UserError as error:
        return error.what
    return ""
