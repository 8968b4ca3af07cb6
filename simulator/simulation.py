"""From a scenario to its result: the one function behind every door."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.scenario.scenario import Scenario

if TYPE_CHECKING:
    from simulator.cluster import FrontEndTimes, Progress
    from simulator.costs.protocol import StepCost
    from simulator.engines import EngineProfile
    from simulator.results import Result
    from simulator.results.record import RunRecord
    from simulator.workload.requests import Requests


def simulate(
    scenario: Scenario,
    *,
    base: Path | None = None,
    engine: EngineProfile | None = None,
    intervals: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Simulates a scenario.

    Args:
        scenario: what to simulate.
        base: folder that relative paths in the scenario start from; default: the current one.
        engine: an engine profile to take instead of the one that the scenario names.
        intervals: whether the summary says how far off its figures may be, which takes two more
            runs of up to 2,000 requests when it is first asked for.
        progress: called now and then with requests ended, requests in all, and simulated seconds.

    Returns:
        The result; ``result.record.interrupted`` tells whether Ctrl-C ended it early.

    Raises:
        UserError: the scenario cannot be simulated, with the reason.
        TypeError: it is no scenario.
    """
    if not isinstance(scenario, Scenario):
        raise TypeError(
            f"simulate() takes a Scenario, not a {type(scenario).__name__}; "
            "load_scenario() makes one from a name, a file or a mapping"
        )
    import numpy as np

    from simulator.cluster import run_cluster
    from simulator.resolve import resolve
    from simulator.results import Result
    from simulator.uncertainty import uncertainty
    from simulator.workload import build_requests

    resolved = resolve(scenario, base, engine)
    seed = scenario.measurement.seed
    requests = build_requests(scenario.workload, np.random.default_rng(seed), base)
    deployment = resolved.deployment
    serving = scenario.deployment

    def run(
        traffic: Requests, cost: StepCost, ends: FrontEndTimes, told: Progress | None = None
    ) -> RunRecord:
        return run_cluster(
            traffic,
            deployment.limits,
            resolved.layout.blocks,
            cost,
            layout=resolved.layout,
            replicas=serving.replicas,
            router=serving.router,
            seed=seed,
            timeout_s=serving.timeout_s,
            network_s=serving.network_ms / 1e3,
            front_end=ends,
            oversized=serving.oversized_requests,
            progress=told,
        )

    record = run(requests, resolved.cost, resolved.front_end, progress)
    if not intervals or record.interrupted:
        return Result(deployment, record, resolved.cost)

    def asked() -> dict[str, Any] | None:
        return uncertainty(
            deployment, record, resolved.cost, resolved.cost, resolved.front_end, run
        )

    return Result(deployment, record, resolved.cost, asked)
