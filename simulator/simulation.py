"""From a scenario to its result: the one function behind every door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.scenario.scenario import Scenario

if TYPE_CHECKING:
    from simulator.cluster import Progress
    from simulator.cluster.watch import Watch
    from simulator.engines import EngineProfile
    from simulator.results import Result
    from simulator.results.record import RunRecord
    from simulator.uncertainty import Steps
    from simulator.workload.requests import Requests


def simulate(
    scenario: Scenario,
    *,
    base: Path | None = None,
    engine: EngineProfile | None = None,
    intervals: bool = True,
    progress: Progress | None = None,
    watch: Watch | None = None,
    traffic: Callable[[], Requests] | None = None,
    at_most: int | None = None,
) -> Result:
    """Simulates a scenario.

    Args:
        scenario: what to simulate.
        base: folder that relative paths in the scenario start from; default: the current one.
        engine: an engine profile to take instead of the one that the scenario names.
        intervals: whether the summary says how far off its figures may be, which takes two more
            runs of up to 2,000 requests when it is first asked for.
        progress: called now and then with requests ended, requests in all, and simulated seconds.
        watch: looks at the run now and then and may end it; see ``simulator.cluster.watch``.
        traffic: gives the scenario's requests, as ``build_requests`` makes them of its workload and
            seed, where they may be known already.
        at_most: simulate the first so many requests only, for a first look; all of them where
            closed loops stand beside open arrivals.

    Returns:
        The result; ``result.record.interrupted`` tells whether Ctrl-C or the watch ended it early.

    Raises:
        UserError: the scenario cannot be simulated, with the reason.
        TypeError: it is no scenario.
    """
    if not isinstance(scenario, Scenario):
        raise TypeError(
            f"simulate() takes a Scenario, not a {type(scenario).__name__}; "
            "load_scenario() makes one from a name, a file or a mapping"
        )
    from simulator.cluster import run_groups
    from simulator.cluster.groups import Serving
    from simulator.resolution.pools import group_of, resolve_pools
    from simulator.resolution.terms import class_terms
    from simulator.resolution.transfers import paths_of
    from simulator.results import Result
    from simulator.results.fleet import Member
    from simulator.uncertainty import first_part, uncertainty

    pools = resolve_pools(scenario, base, engine)
    paths_of(scenario, pools)
    seed = scenario.measurement.seed
    requests = traffic_of(scenario, base) if traffic is None else traffic()
    if at_most is not None:
        requests = first_part(requests, at_most)
    serving = scenario.deployment
    # Every pool has a scenario of its own; results are about the whole.
    first = replace(pools[0].deployment, scenario=scenario)
    members = [Member(pool.deployment, pool.resolved.cost) for pool in pools]

    def run(
        requests: Requests,
        steps: Sequence[Steps],
        told: Progress | None = None,
        watch: Watch | None = None,
    ) -> RunRecord:
        groups = [
            group_of(pool, cost, front_end)
            for pool, (cost, front_end) in zip(pools, steps, strict=True)
        ]
        return run_groups(
            requests,
            groups,
            router=serving.router,
            seed=seed,
            terms=class_terms(scenario, requests.classes),
            admission=serving.admission,
            timeout_s=serving.timeout_s,
            network_s=serving.network_ms / 1e3,
            oversized=serving.oversized_requests,
            serving=Serving(serving.gateway, serving.retry),
            progress=told,
            paths=paths_of(scenario, pools),
            watch=watch,
        )

    steps = [(pool.resolved.cost, pool.resolved.front_end) for pool in pools]
    record = run(requests, steps, progress, watch)
    accountant = members[0].accountant
    if not intervals or record.interrupted:
        return Result(first, record, accountant, members=members)

    def asked() -> dict[str, Any] | None:
        return uncertainty(scenario.measurement, members, record, steps, run)

    return Result(first, record, accountant, asked, members)


def traffic_of(scenario: Scenario, base: Path | None = None) -> Requests:
    """The requests that ``simulate`` sends; ``len`` says how many. Two runs of the same need
    them made once: ``simulate(scenario, traffic=lambda: requests)``.

    Args:
        scenario: its workload and seed.
        base: folder that relative paths start from; default: the current one.

    Raises:
        UserError: the workload cannot be made, with the reason.
    """
    import numpy as np

    from simulator.workload import build_requests

    rng = np.random.default_rng(scenario.measurement.seed)
    return build_requests(scenario.workload, rng, base)
