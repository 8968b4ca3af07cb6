"""No run beats a bound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.costs.model import StepCostModel
from simulator.errors import UserError
from simulator.planner.analytic.bounds import Bounds
from simulator.planner.analytic.feasible import fits
from simulator.planner.constraints import Constraint
from simulator.planner.traffic import offered, scaled
from simulator.resolution.pools import resolve_pools
from simulator.results.definitions import value_at
from simulator.scenario import Scenario
from simulator.scenario.load import load_scenario
from simulator.scenario.workload import ClosedLoopArrivals
from simulator.simulation import simulate
from simulator.workload import build_requests
from tests.plan_storm import random_pair, random_scenario

EXAMPLES = Path(__file__).parent.parent / "examples"
STORM = 320
FLOORS = [
    *(
        f"latency.{name}.{statistic}"
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
        for statistic in ("mean", "p50", "p90", "p95", "p99")
    ),
    *(
        f"cost.{name}"
        for name in (
            "usd_per_hour", "usd", "usd_per_request", "usd_per_million_output_tokens",
            "usd_per_million_total_tokens", "whole_run_usd",
        )
    ),
    *(
        f"energy.{name}"
        for name in (
            "power_w_mean", "power_w_mean_per_device", "energy_kwh", "joules_per_request",
            "joules_per_output_token", "joules_per_total_token", "whole_run_kwh", "gco2e",
            "gco2e_per_request", "gco2e_per_million_output_tokens", "whole_run_gco2e",
        )
    ),
]  # fmt: skip
CEILINGS = [
    "throughput.requests_per_s", "throughput.output_tokens_per_s",
    "throughput.total_tokens_per_s", "throughput.output_tokens_per_s_per_device",
    "throughput.total_tokens_per_s_per_device", "slo.goodput_share", "slo.goodput_requests_per_s",
]  # fmt: skip


def bounds_of(scenario: Scenario, base: Path | None = None) -> Bounds:
    seed = scenario.measurement.seed
    requests = build_requests(scenario.workload, np.random.default_rng(seed), base)
    return Bounds(resolve_pools(scenario, base), offered(requests, scenario.measurement))


def beaten(scenario: Scenario, base: Path | None = None) -> list[str]:
    """Bounds that a run beats."""
    bounds = bounds_of(scenario, base)
    summary: dict[str, Any] = simulate(scenario, base=base, intervals=False).summary()
    replicas = [[pool.replicas for pool in bounds.pools]]
    found = []
    floors = FLOORS + [
        path.replace("latency", f"classes.{name}")
        for name in summary["classes"]
        for path in FLOORS
        if path.startswith("latency")
    ]
    for paths, bound, sign in ((floors, bounds.floor, 1.0), (CEILINGS, bounds.ceiling, -1.0)):
        for path in paths:
            value = value_at(summary, path)
            limit = float(bound(path, replicas)[0])
            assert not np.isnan(limit), path
            if value is not None and sign * value < sign * limit * (1.0 - sign * 1e-12):
                found.append(f"{path}: {value:.9g} beats {limit:.9g}")
    return found


@pytest.mark.parametrize("block", range(8))
def test_no_random_run_beats_a_bound(block: int) -> None:
    ran, complaints = 0, []
    for seed in range(block * STORM // 8, (block + 1) * STORM // 8):
        try:
            scenario = load_scenario(random_scenario(seed))
            found = beaten(scenario)
        except UserError:
            continue
        ran += 1
        complaints += [f"seed {seed}: {each}" for each in found]
    assert not complaints
    assert ran > STORM // 16, "most random scenarios should run"


def test_no_random_pair_of_pools_beats_a_bound() -> None:
    ran, complaints = 0, []
    for seed in range(60):
        try:
            found = beaten(load_scenario(random_pair(seed)))
        except UserError:
            continue
        ran += 1
        complaints += [f"seed {seed}: {each}" for each in found]
    assert not complaints
    assert ran > 30


@pytest.mark.parametrize(
    "name", ["disaggregated-70b-h100", "mixed-pools-8b", "two-models-one-gpu", "failover-8b-h100",
             "speculative-eagle-8b-h100", "mixed-classes-8b-h100", "swap-preemption"],
)  # fmt: skip
def test_no_example_beats_a_bound(name: str) -> None:
    assert not beaten(load_scenario(EXAMPLES / f"{name}.yaml"), EXAMPLES)


def test_pools_that_hand_over_are_bounded_by_both() -> None:
    pools = [
        {"name": "p", "role": "prefill", "parallelism": {"tp": 2}},
        {"name": "d", "role": "decode"},
    ]
    asked = crowd(60.0)
    pair = Scenario.model_validate({**asked.model_dump(), "deployment": {"pools": pools}})
    bounds = bounds_of(pair)
    assert all(loads > 1.0 for loads in bounds.loads)
    prefill, decode = bounds.least_replicas()
    assert (prefill, decode) == tuple(np.ceil(bounds.loads).astype(int))
    few, enough = bounds.floor("latency.ttft_ms.p99", [[1, decode], [prefill, decode]])
    assert few > 2 * enough
    few, enough = bounds.floor("latency.e2e_ms.p99", [[prefill, 1], [prefill, decode]])
    assert few > 1.5 * enough
    prices = bounds.floor("cost.usd_per_hour", [[1, 0], [0, 1], [2, 3]])
    assert prices[2] == pytest.approx(2 * prices[0] + 3 * prices[1])
    assert prices[0] == pytest.approx(2 * prices[1])


# --- what fits -----------------------------------------------------------------------------------


def test_what_fits_is_what_can_be_simulated() -> None:
    verdicts = set()
    for seed in range(120):
        mapping = random_scenario(seed)
        mapping["workload"] = {
            "kind": "synthetic", "requests": 1, "arrivals": {"kind": "burst"},
            "lengths": {"kind": "independent", "input": {"kind": "fixed", "tokens": 8},
                        "output": {"kind": "fixed", "tokens": 2}},
        }  # fmt: skip
        if seed % 2:
            mapping["hardware"] = "l4"
        scenario = load_scenario(mapping)
        try:
            simulate(scenario, intervals=False)
            said = ""
        except UserError as error:
            said = error.what
        assert fits(scenario) == said, seed
        verdicts.add(bool(said))
    assert verdicts == {True, False}


def test_no_tables_are_made_for_what_is_only_looked_at() -> None:
    scenario = load_scenario(random_scenario(0) | {"parallelism": {}, "engine": "vllm"})
    (pool,) = resolve_pools(scenario)
    cost = pool.resolved.cost
    assert isinstance(cost, StepCostModel)
    assert not cost._tokens_s
    cost.decode(1, 10, 10, 0)
    assert len(cost._tokens_s) == pool.deployment.limits.max_num_batched_tokens + 1


# --- how near they are ---------------------------------------------------------------------------


def chat(**more: Any) -> Scenario:
    lengths = {
        "kind": "independent",
        "input": {"kind": "lognormal", "mean": 600, "cv": 0.7},
        "output": {"kind": "lognormal", "mean": 120, "cv": 0.7},
    }
    workload = {
        "kind": "synthetic", "requests": 400, "lengths": lengths,
        "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
    }  # fmt: skip
    mapping = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "workload": workload}
    return load_scenario(mapping | more)


def crowd(factor: float) -> Scenario:
    workload = chat().workload.model_copy(update={"requests": 3000})
    return chat().model_copy(update={"workload": scaled(workload, factor)})


def figure(scenario: Scenario, path: str) -> float:
    value = value_at(simulate(scenario, intervals=False).summary(), path)
    assert value is not None
    return float(value)


@pytest.mark.parametrize("parallelism", [{}, {"tp": 4}, {"pp": 2}, {"tp": 2, "cp": 2}])
@pytest.mark.parametrize("metric", ["ttft_ms", "tpot_ms", "e2e_ms"])
def test_the_least_latency_is_almost_that_of_requests_alone(
    parallelism: dict[str, int], metric: str
) -> None:
    """One user at a time has a replica to himself."""
    scenario = chat(parallelism=parallelism, measurement={"warmup_fraction": 0.0})
    alone = scenario.model_copy(
        update={
            "workload": scenario.workload.model_copy(
                update={"arrivals": ClosedLoopArrivals(concurrency=1), "requests": 60}
            )
        }
    )
    for statistic in ("p50", "p99"):
        path = f"latency.{metric}.{statistic}"
        least = float(bounds_of(alone).floor(path, [1])[0])
        assert 0.8 * figure(alone, path) < least <= figure(alone, path)


def test_drafts_that_are_always_accepted_come_near_the_least() -> None:
    drafts = {"kind": "ngram", "tokens": 3, "acceptance": 1.0}
    scenario = chat(engine={"profile": "vllm", "speculative": drafts})
    alone = scenario.model_copy(
        update={
            "workload": scenario.workload.model_copy(
                update={"arrivals": ClosedLoopArrivals(concurrency=1), "requests": 60}
            )
        }
    )
    path = "latency.e2e_ms.p50"
    least = float(bounds_of(alone).floor(path, [1])[0])
    assert 0.7 * figure(alone, path) < least <= figure(alone, path)


@pytest.mark.parametrize("metric", ["ttft_ms", "e2e_ms"])
def test_the_wait_of_too_much_traffic_is_foreseen(metric: str) -> None:
    """Four times what a replica can do: all wait for what came before."""
    light, heavy = crowd(1.0), crowd(60.0)
    bounds = bounds_of(heavy)
    assert bounds.loads[0] > 4.0
    for statistic in ("mean", "p99"):
        path = f"latency.{metric}.{statistic}"
        least = float(bounds.floor(path, [1])[0])
        assert least > 5 * float(bounds_of(light).floor(path, [1])[0])
        assert least <= figure(heavy, path)
    assert least > 0.5 * figure(heavy, path)


def test_more_replicas_bound_less() -> None:
    heavy = crowd(60.0)
    bounds = bounds_of(heavy)
    for path in ("latency.ttft_ms.p99", "latency.e2e_ms.mean"):
        found = bounds.floor(path, [1, 2, 3, 4, 8])
        assert (np.diff(found) <= 0).all()
        assert found[0] > found[-1]
    assert (np.diff(bounds.ceiling("throughput.requests_per_s", [1, 2, 3])) >= 0).all()
    each = [float(bounds.floor("latency.e2e_ms.p90", [n])[0]) for n in (1, 2, 3)]
    np.testing.assert_allclose(bounds.floor("latency.e2e_ms.p90", [1, 2, 3]), each, rtol=1e-12)


def test_fewer_replicas_than_the_least_fall_behind() -> None:
    heavy = crowd(60.0)
    bounds = bounds_of(heavy)
    (least,) = bounds.least_replicas()
    assert least == math.ceil(bounds.loads[0])
    few = heavy.model_copy(
        update={"deployment": heavy.deployment.model_copy(update={"replicas": least - 1})}
    )
    result = simulate(few, intervals=False)
    comes_s = np.ptp(result.record.sent_s)
    assert result.record.end_s > bounds.loads[0] / (least - 1) * comes_s > comes_s


def test_what_no_bound_rules_out_is_possible() -> None:
    bounds = bounds_of(chat(slo={"ttft_ms": 1000.0}))
    replicas = [1, 2, 3]

    def possible(**limit: Any) -> list[bool]:
        return list(bounds.possible([Constraint(**limit)], replicas))

    assert possible(metric="tpot_ms.p50", max=1.0) == [False] * 3
    assert possible(metric="tpot_ms.p50", max=100.0) == [True] * 3
    price = float(bounds.floor("cost.usd_per_hour", [1])[0])
    assert possible(metric="cost.usd_per_hour", max=2.5 * price) == [True, True, False]
    assert possible(metric="throughput.requests_per_s", min=100.0) == [False] * 3
    assert possible(metric="kv_cache.use_mean", max=0.0) == [True] * 3


def test_a_class_is_bounded_by_its_own_requests() -> None:
    bounds = bounds_of(load_scenario(EXAMPLES / "mixed-classes-8b-h100.yaml"), EXAMPLES)
    names = bounds.traffic.requests.classes
    each = [float(bounds.floor(f"classes.{name}.e2e_ms.mean", [1])[0]) for name in names]
    assert len(names) > 1
    assert len(set(each)) == len(names)
    whole = float(bounds.floor("latency.e2e_ms.mean", [1])[0])
    assert min(each) < whole < max(each)
    slowest = names[int(np.argmax(each))]
    limit = Constraint(metric="e2e_ms.mean", max=0.9 * max(each), traffic_class=slowest)
    assert not bounds.possible([limit], [1, 16]).any()
    assert bounds.floor("classes.nobody.e2e_ms.mean", [1]).tolist() == [0.0]


def test_what_is_unknown_is_not_bounded() -> None:
    bounds = bounds_of(chat(deployment={"timeout_s": 5.0}))
    assert not bounds.certain
    shortest = bounds.alone.ttft_s.min()
    assert bounds.floor("latency.ttft_ms.p99", [1])[0] == pytest.approx(1e3 * shortest)
    assert bounds.floor("kv_cache.use_mean", [1, 2]).tolist() == [0.0, 0.0]
    assert np.isinf(bounds.ceiling("utilization.mfu", [1, 2])).all()
