"""From a scenario to its result: the one function behind every door."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simulator.scenario.scenario import Scenario

if TYPE_CHECKING:
    from simulator.cluster import Progress
    from simulator.engines import EngineProfile
    from simulator.results import Result


def simulate(
    scenario: Scenario,
    *,
    base: Path | None = None,
    engine: EngineProfile | None = None,
    progress: Progress | None = None,
) -> Result:
    """Simulates a scenario.

    Args:
        scenario: what to simulate.
        base: folder that relative paths in the scenario start from; default: the current one.
        engine: an engine profile to take instead of the one that the scenario names.
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

    from simulator.cluster import FrontEndTimes, run_cluster
    from simulator.resolve import resolve
    from simulator.results import Result
    from simulator.workload import build_requests

    resolved = resolve(scenario, base, engine)
    seed = scenario.measurement.seed
    requests = build_requests(scenario.workload, np.random.default_rng(seed), base)
    deployment = resolved.deployment
    serving = scenario.deployment
    front_end = deployment.engine.front_end
    record = run_cluster(
        requests,
        deployment.limits,
        resolved.layout.blocks,
        resolved.cost,
        layout=resolved.layout,
        replicas=serving.replicas,
        router=serving.router,
        seed=seed,
        timeout_s=serving.timeout_s,
        network_s=serving.network_ms / 1e3,
        front_end=FrontEndTimes(
            front_end.request_ms / 1e3,
            front_end.busy_ms / 1e3,
            front_end.busy_us_per_token / 1e6,
            front_end.token_us / 1e6,
            front_end.response_ms / 1e3,
        ),
        oversized=serving.oversized_requests,
        progress=progress,
    )
    return Result(deployment, record, resolved.cost)
