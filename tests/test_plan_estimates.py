"""What is expected without simulation comes near what a simulation says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.errors import UserError
from simulator.planner.analytic.bounds import PairBounds, ReplicaBounds
from simulator.planner.analytic.feasible import fits
from simulator.planner.constraints import Constraint
from simulator.planner.traffic import offered
from simulator.resolution.pools import resolve_pools
from simulator.results.definitions import value_at
from simulator.scenario import Scenario
from simulator.scenario.load import load_scenario
from simulator.scenario.workload import ClosedLoopArrivals
from simulator.simulation import simulate
from simulator.workload import build_requests
from tests.plan_storm import random_pair, random_scenario

PATHS = [
    f"latency.{name}.{statistic}"
    for name in ("ttft_ms", "tpot_ms", "e2e_ms")
    for statistic in ("mean", "p50", "p90", "p99")
]


def expecting(scenario: Scenario) -> ReplicaBounds | PairBounds:
    requests = build_requests(scenario.workload, np.random.default_rng(scenario.measurement.seed))
    traffic = offered(requests, scenario.measurement)
    pools = resolve_pools(scenario)
    return PairBounds(*pools, traffic) if len(pools) == 2 else ReplicaBounds(*pools, traffic)


def chat(rate_per_s: float, replicas: int = 1, **more: Any) -> Scenario:
    lengths = {
        "kind": "independent",
        "input": {"kind": "lognormal", "mean": 600, "cv": 0.7},
        "output": {"kind": "lognormal", "mean": 120, "cv": 0.7},
    }
    mapping: dict[str, Any] = {
        "model": "llama-3.1-8b", "hardware": "h100-sxm",
        "workload": {
            "kind": "synthetic", "requests": 1500, "lengths": lengths,
            "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        },
        "deployment": {"replicas": replicas},
    }  # fmt: skip
    return load_scenario(mapping | more)


@pytest.mark.parametrize(
    ("rate", "more"),
    [
        (5.0, {}),
        (25.0, {}),
        (40.0, {"parallelism": {"tp": 2}}),
        (30.0, {"parallelism": {"pp": 2}}),
        (10.0, {"hardware": "l40s", "deployment": {"replicas": 3}}),
        (20.0, {"engine": {"profile": "vllm", "policy": {"kind": "prefill_first"}}}),
    ],
)
def test_expected_latencies_are_near_simulated_ones(rate: float, more: dict[str, Any]) -> None:
    scenario = chat(rate, **more)
    replicas = [scenario.deployment.replicas]
    summary = simulate(scenario, intervals=False).summary()
    expected = expecting(scenario)
    for path in PATHS:
        found = float(expected.estimate(path, replicas)[0])
        near = 0.45 if path.endswith(("p90", "p99")) else 0.3
        assert found == pytest.approx(value_at(summary, path), rel=near), path
    for path in ("throughput.requests_per_s", "cost.usd_per_million_output_tokens"):
        found = float(expected.estimate(path, replicas)[0])
        assert found == pytest.approx(value_at(summary, path), rel=0.1), path


def test_pools_that_hand_over_are_foreseen() -> None:
    pools = [
        {"name": "p", "role": "prefill", "replicas": 1},
        {"name": "d", "role": "decode", "replicas": 2},
    ]
    scenario = chat(30.0, deployment={"pools": pools})
    summary = simulate(scenario, intervals=False).summary()
    expected = expecting(scenario)
    for path in PATHS:
        found = float(expected.estimate(path, [[1, 2]])[0])
        assert found == pytest.approx(value_at(summary, path), rel=0.3), path


def test_users_who_wait_for_answers_set_the_pace() -> None:
    scenario = chat(1.0)
    users = ClosedLoopArrivals(concurrency=24)
    workload = scenario.workload.model_copy(update={"arrivals": users, "requests": 600})
    scenario = scenario.model_copy(update={"workload": workload})
    summary = simulate(scenario, intervals=False).summary()
    expected = expecting(scenario)
    for path in ("throughput.requests_per_s", "latency.tpot_ms.mean", "latency.e2e_ms.mean"):
        found = float(expected.estimate(path, [1])[0])
        assert found == pytest.approx(value_at(summary, path), rel=0.2), path


def test_too_much_traffic_is_foreseen() -> None:
    scenario = chat(400.0)
    summary = simulate(scenario, intervals=False).summary()
    expected = expecting(scenario)
    assert isinstance(expected, ReplicaBounds)
    assert expected.expected.state([1]).load[0] > 4.0
    found = float(expected.estimate("latency.ttft_ms.p90", [1])[0])
    assert found == pytest.approx(value_at(summary, "latency.ttft_ms.p90"), rel=0.5)


def test_more_replicas_are_expected_to_be_faster() -> None:
    expected = expecting(chat(120.0))
    replicas = np.arange(1, 9)
    for path in PATHS:
        found = expected.estimate(path, replicas)
        assert (np.diff(found) <= 1e-9 * found[:-1]).all(), path
        each = [float(expected.estimate(path, [n])[0]) for n in replicas]
        np.testing.assert_allclose(found, each, rtol=1e-12)


def test_the_least_number_that_is_expected_to_hold_is_near_the_truth() -> None:
    scenario = chat(120.0)
    expected = expecting(scenario)
    assert isinstance(expected, ReplicaBounds)
    limits = [
        Constraint(metric="ttft_ms.p99", max=200.0),
        Constraint(metric="tpot_ms.p99", max=15.0),
    ]
    start = expected.expected.least_replicas(limits, 16)
    assert start is not None

    def holds(replicas: int) -> bool:
        deployment = scenario.deployment.model_copy(update={"replicas": replicas})
        run = simulate(scenario.model_copy(update={"deployment": deployment}), intervals=False)
        return all(limit.holds(limit.value(run.summary())) for limit in limits)

    least = next(n for n in range(1, 17) if holds(n))
    assert abs(start - least) <= 1
    assert start >= expected.least_replicas()[0]
    hopeless = [Constraint(metric="tpot_ms.mean", max=0.1)]
    assert expected.expected.least_replicas(hopeless, 16) is None


def test_whatever_is_asked_something_is_expected() -> None:
    known = 0
    for make, seeds in ((random_scenario, range(120)), (random_pair, range(30))):
        for seed in seeds:
            try:
                scenario = load_scenario(make(seed))
                expected = expecting(scenario)
            except UserError:
                continue
            replicas = [[pool.replicas for pool in expected.pools]]
            if isinstance(expected, ReplicaBounds):
                replicas = replicas[0]
            for path in (*PATHS, "throughput.requests_per_s"):
                found = float(expected.estimate(path, replicas)[0])
                unknown = make is random_pair and np.isfinite(expected.expected.prefill.users)
                assert np.isnan(found) if unknown else 0.0 <= found < 1e9, (seed, path)
                known += not unknown
    assert known > 1000


def test_a_request_that_never_fits_is_found_before_a_run() -> None:
    scenario = chat(1.0, engine={"profile": "vllm", "kv_cache_tokens": 1024})
    requests = build_requests(scenario.workload, np.random.default_rng(0))
    assert fits(scenario) == ""
    said = fits(scenario, requests=requests)
    with pytest.raises(UserError) as caught:
        simulate(scenario, intervals=False)
    assert said == caught.value.what
    assert "KV blocks" in said
